"""USB dongles over pyusb: transport, wire, driver, and the dongle's own side."""
