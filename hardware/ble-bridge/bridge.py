#!/usr/bin/env python3
"""A GATT peripheral for simulated sensors: carries their values between the air and a socket, and knows nothing of them.

The sensor is `clawgate-simulator --ble-socket PATH`; the frames on that socket are described in
hardware/simulator/src/air.rs. The radio is Bumble's (pip install bumble==0.0.236):

    bridge.py --socket PATH --transport usb:0          a Bluetooth dongle
    bridge.py --socket PATH --vhci vhci                no radio at all: an adapter appears on this machine (hci_vhci),
                                                       and the sensor is heard by it; --socket may be given several times

It says `advertising ADDRESS` once a sensor is on the air, and `mtu BYTES` when a gateway agreed to one.
"""

import argparse
import asyncio
import contextlib
import struct
import sys

from bumble import hci
from bumble.controller import Controller
from bumble.core import AdvertisingData, PhysicalTransport, UUID
from bumble.device import Device
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport import open_transport
from bumble.transport.common import AsyncPipeSink

BASE = "c1a9000{}-5d2e-4f6b-9a37-20c84e1b7f50"
SERVICE, RX, TX = (UUID(BASE.format(number)) for number in (1, 2, 3))
RETRY_S = 0.2


def say(*words):
    print(*words, flush=True)


class Link(LocalLink):
    """Bumble names the sender by its random address; BlueZ connects from its public one."""

    def send_acl_data(self, sender, destination, transport, data):
        if transport != PhysicalTransport.LE:
            super().send_acl_data(sender, destination, transport, data)
            return
        source = next(
            (c.self_address for c in sender.le_connections.values() if c.peer_address == destination),
            sender.random_address,
        )
        receiver = self.find_le_controller(destination)
        if receiver is not None:
            asyncio.get_running_loop().call_soon(lambda: receiver.on_link_acl_data(source, transport, data))


class PlainController(Controller):
    """Without the features for which Linux expects events that Bumble does not send (its connects would fail with EBUSY)."""

    le_acl_data_packet_length = 251
    supported_max_tx_octets = supported_max_rx_octets = 251
    le_features = Controller.le_features & ~(
        hci.LeFeatureMask.LL_PRIVACY
        | hci.LeFeatureMask.LE_EXTENDED_ADVERTISING
        | hci.LeFeatureMask.LE_PERIODIC_ADVERTISING
    )

    def send_hci_packet(self, packet):
        """Bumble reports the advertising data a second time as scan response: the true one is put in its place."""
        if isinstance(packet, hci.HCI_LE_Advertising_Report_Event):
            for report in packet.reports:
                if report.event_type == hci.HCI_LE_Advertising_Report_Event.EventType.SCAN_RSP:
                    sender = self.link.find_le_controller(report.address)
                    if sender is not None:
                        report.data = bytes(sender.le_legacy_advertiser.scan_response_data)
            packet = hci.HCI_LE_Advertising_Report_Event(packet.reports)
        super().send_hci_packet(packet)


class Sensor:
    """One simulated sensor: its socket on one side, its GATT service on the other."""

    def __init__(self, path, device):
        self.path, self.device = path, device
        self.writer = None
        self.connection = None
        self.advertisement = None
        self.outgoing = asyncio.Queue(1024)
        properties = Characteristic.Properties
        rx = Characteristic(
            RX,
            properties.WRITE | properties.WRITE_WITHOUT_RESPONSE,
            Characteristic.WRITEABLE,
            CharacteristicValue(write=lambda _connection, value: self.tell(b"W", value)),
        )
        self.tx = Characteristic(TX, properties.NOTIFY, Characteristic.READABLE, b"")
        self.tx.on("subscription", self.subscribed)
        device.add_service(Service(SERVICE, [rx, self.tx]))
        device.on("connection", self.connected)

    def tell(self, kind, content=b""):
        if self.writer is not None:
            self.writer.write(struct.pack(">H", len(content) + 1) + kind + bytes(content))

    def connected(self, connection):
        self.connection = connection
        connection.on("disconnection", self.disconnected)
        connection.on("connection_att_mtu_update", self.agreed)
        self.tell(b"C", struct.pack(">H", connection.att_mtu))

    def agreed(self):
        if self.connection is not None:
            say("mtu", self.connection.att_mtu)
            self.tell(b"M", struct.pack(">H", self.connection.att_mtu))

    def disconnected(self, _reason):
        self.connection = None
        self.tell(b"D")

    def subscribed(self, _connection, notify, _indicate):
        self.tell(b"S", bytes([bool(notify)]))

    async def run(self):
        await self.device.power_on()
        notifier = asyncio.create_task(self.notify())
        while not notifier.done():
            with contextlib.suppress(ConnectionError, FileNotFoundError, asyncio.IncompleteReadError):
                reader, self.writer = await asyncio.open_unix_connection(self.path)
                if self.connection is not None:
                    self.connected(self.connection)
                while True:
                    (length,) = struct.unpack(">H", await reader.readexactly(2))
                    frame = await reader.readexactly(length)
                    await self.obey(frame[:1], frame[1:])
            self.writer = None
            await self.off_the_air()
            await asyncio.sleep(RETRY_S)
        notifier.result()

    async def obey(self, kind, content):
        if kind == b"A":
            await self.advertise(content[1 : 1 + content[0]], content[1 + content[0] :])
        elif kind == b"N":
            await self.outgoing.put(content)
        elif kind == b"X" and self.connection is not None:
            await self.connection.disconnect()

    async def notify(self):
        """In order, one at a time: a value that is not yet out holds up those behind it, and so the sensor."""
        while True:
            value = await self.outgoing.get()
            if self.connection is not None:
                with contextlib.suppress(Exception):
                    await self.device.notify_subscriber(self.connection, self.tx, value)

    async def advertise(self, service_data, name):
        fields = [
            (AdvertisingData.FLAGS, b"\x06"),
            (AdvertisingData.COMPLETE_LIST_OF_128_BIT_SERVICE_CLASS_UUIDS, bytes(SERVICE)),
        ]
        if name:
            fields.append((AdvertisingData.SHORTENED_LOCAL_NAME, name[:8]))
        scan_response = AdvertisingData([(AdvertisingData.SERVICE_DATA_128_BIT_UUID, bytes(SERVICE) + service_data)])
        first = self.advertisement is None
        self.advertisement = (bytes(AdvertisingData(fields)), bytes(scan_response))
        if self.connection is None:
            with contextlib.suppress(Exception):
                await self.device.stop_advertising()
            await self.device.start_advertising(
                advertising_data=self.advertisement[0],
                scan_response_data=self.advertisement[1],
                auto_restart=True,
            )
        if first:
            say("advertising", self.device.random_address)

    async def off_the_air(self):
        """The sensor has no power: nobody hears or reaches it."""
        self.advertisement = None
        with contextlib.suppress(Exception):
            await self.device.stop_advertising()
        if self.connection is not None:
            with contextlib.suppress(Exception):
                await self.connection.disconnect()


async def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", action="append", required=True, help="of a sensor; several only with --vhci")
    radio = parser.add_mutually_exclusive_group(required=True)
    radio.add_argument("--transport", help="Bumble's name of a Bluetooth controller, such as usb:0")
    radio.add_argument("--vhci", help="Bumble's name of a virtual host controller, such as vhci or vhci:/dev/vhci")
    parser.add_argument("--max-mtu", type=int, default=517, help="the largest ATT MTU that the sensors agree to (23 to 517)")
    options = parser.parse_args()
    addresses = [hci.Address(f"F0:C1:A9:00:00:{number:02X}") for number in range(1, len(options.socket) + 1)]
    if options.transport:
        if len(options.socket) != 1:
            parser.error("one controller is one sensor")
        transport = await open_transport(options.transport)
        devices = [Device.with_hci("sensor", addresses[0], transport.source, transport.sink)]
    else:
        link = Link()
        transport = await open_transport(options.vhci)
        gateway = PlainController(
            "gateway",
            host_source=transport.source,
            host_sink=transport.sink,
            link=link,
            public_address="C0:FF:EE:00:00:01",
        )
        say("adapter", gateway.public_address)
        devices = []
        for number, address in enumerate(addresses):
            controller = PlainController(
                f"sensor{number}", link=link, public_address=f"C0:FF:EE:00:01:{number:02X}"
            )
            devices.append(Device(name="sensor", address=address, host=Host(controller, AsyncPipeSink(controller))))
    for device in devices:
        device.gatt_server.max_mtu = options.max_mtu
    sensors = [Sensor(path, device) for path, device in zip(options.socket, devices)]
    await asyncio.gather(*(sensor.run() for sensor in sensors), transport.source.wait_for_termination())


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(asyncio.run(main()))
