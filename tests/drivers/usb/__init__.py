"""Tests of the USB driver, through pyusb's own code, against the dongle's firmware on a bus inside the process."""
