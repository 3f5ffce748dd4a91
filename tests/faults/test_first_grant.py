"""What a fault must leave unharmed works: the first grant. By itself, since it is run with each fault."""

from __future__ import annotations

from pathlib import Path

from drivers import image
from drivers.driver import never_cancelled
from drivers.virtual import VirtualDriver, VirtualOptions
from protocol.messages import Release
from tests.daemon.harness import Talk, access, hello, make_service
from tests.drivers.samples import EVERYBODY

DONGLE = """
id = "3-1"
[[firm_items]]
firm_code = 600010
[[firm_items.products]]
item = 1
product_code = 14
quantity = 2
"""


def test_the_first_grant(tmp_path: Path) -> None:
    """A container is read, a client greets, gets a license and gives it back: the way that no fault may block."""
    path = tmp_path / "dongle.toml"
    path.write_text(DONGLE)
    driver = VirtualDriver(VirtualOptions(files=(str(path),)), never_cancelled)
    (dongle,) = driver.scan()
    service = make_service(image.decode(driver.open(dongle).read(), EVERYBODY))
    client = Talk(service, greeting=hello())
    granted = client.ask(access())
    assert (granted.handle, granted.container, granted.item) == (1, "3-1", 1)
    client.ask(Release(granted.handle))
    assert not service.engine.table.accesses
