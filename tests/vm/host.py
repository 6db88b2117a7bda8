#!/usr/bin/env python3
"""The world around the machine under test: the sensor at the end of a USB cable, the hands that plug it.

    host.py IMAGE_DIRECTORY RUN_DIRECTORY PACKAGE CLAWGATE SECONDS

Boots the image under QEMU (emulation: no /dev/kvm needed), obeys the guest's requests on a virtio port, ends with the
machine or after SECONDS, and then compares what the sensor was told is safe with what reached the broker. What it leaves
in RUN_DIRECTORY: console.log, share/results, share/journal, sensor.journal, share/collected.
"""
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

image, run, package, clawgate = (Path(argument).resolve() for argument in sys.argv[1:5])
limit_s = int(sys.argv[5])
# Now and then a guest was seen to stop in its boot, before anything of ours runs. Such a boot is begun anew, with
# everything; a test never is. A slow boot is none: it has not had so many seconds of a processor yet, and it still takes
# what it is given, or waits in the queue for it.
BOOT_S = 150
IDLE_S, LITTLE_S = 60, 6
ATTEMPTS = 3
here = Path(__file__).resolve().parent
started = time.monotonic()
JOURNALS = {"uart": run / "sensor.journal", "ble": run / "share/air.journal"}


def log(*words):
    print(f"[{time.monotonic() - started:6.1f}]", *words, flush=True)


class Sensor:
    """The simulated sensor; its line is a pseudo terminal that QEMU opens as the far end of the USB adapter."""

    def __init__(self):
        command = [clawgate, "simulator", "--label", "random", "--device", "th-1", "--pty", run / "sensor.pty"]
        command += ["--keys", run / "sensor.keys", "--log", run / "sensor.journal", "--every", "200ms", "--until-eof"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if line.startswith("label "):
                self.label = line.split()[1]
            if line.startswith("line "):
                break
        self.silent = threading.Event()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            if line == "silent\n":
                self.silent.set()

    def tell(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        if words == "silence":
            # It has made its last reading.
            self.silent.wait(60)
        return "told"


def made_and_safe(journal):
    """The names of the readings that a sensor made, and of those it was told are safe, by its own journal."""
    safe, made = {}, []
    for line in journal.read_text().splitlines() if journal.exists() else []:
        # The last line may still be on its way into the file.
        entry = json.loads(line) if line.endswith("}") else {"event": ""}
        if entry["event"] == "ack":
            safe[entry["epoch"]] = max(entry["safe"], safe.get(entry["epoch"], 0))
        elif entry["event"] == "reading":
            made.append(entry["id"])
    is_safe = lambda name: int(name.split(".")[2]) <= safe.get(name.split(".")[1], 0)
    return made, [name for name in made if is_safe(name)]


def unsafe(journal):
    """What a sensor has made since its last start, and has not been told is safe."""
    made, safe = made_and_safe(journal)
    return {name for name in made if name.split(".")[1] == made[-1].split(".")[1]} - set(safe)


class Stranger:
    """A serial device that is nobody's business: whatever is written to it is a fault."""

    def __init__(self):
        self.heard = 0
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(run / "stranger.sock"))
        listener.listen(1)
        threading.Thread(target=self.listen, args=(listener,), daemon=True).start()

    def listen(self, listener):
        line, _ = listener.accept()
        while data := line.recv(4096):
            self.heard += len(data)


def connect(path, process):
    """Waits for the emulator to listen there; not for one that has ended."""
    while process.poll() is None:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
            return client
        except OSError:
            client.close()
            time.sleep(0.1)
    sys.exit(f"the emulator ended at once, with {process.returncode}; see above")


class Machine:
    def __init__(self, sensor, stranger):
        self.sensor, self.stranger = sensor, stranger
        # Processor time when the boot that is under way began; none is while the tests run.
        self.booting_since = 0.0
        # What may have gone to another broker, before the one whose readings are counted.
        self.uncounted = set()
        self.devices = {
            "sensor": {"driver": "usb-serial", "id": "sensor", "chardev": "sensor", "serial": "A1B2C3", "bus": "usb.0"},
            "stranger": {"driver": "usb-serial", "id": "stranger", "chardev": "stranger", "serial": "Z9", "bus": "usb.0"},
        }
        unix = lambda name: f"path={run / name},server=on,wait=off"
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512"]
        command += ["-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt", "-m", "1024", "-smp", "2"]
        command += ["-nodefaults", "-no-user-config", "-display", "none", "-serial", f"file:{run / 'console.log'}"]
        command += ["-kernel", image / "vmlinux", "-initrd", image / "initrd.img"]
        command += ["-append", "root=/dev/vda rw console=ttyS0 panic=-1 mitigations=off quiet loglevel=4"]
        command += ["-drive", f"file={image / 'root.img'},if=virtio,format=raw,snapshot=on,cache=unsafe"]
        command += ["-virtfs", f"local,path={run / 'share'},mount_tag=share,security_model=none"]
        command += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
        command += ["-chardev", f"socket,id=hands,{unix('hands.sock')}"]
        command += ["-device", "virtserialport,chardev=hands,name=hands"]
        command += ["-device", "qemu-xhci,id=usb", "-chardev", f"serial,id=sensor,path={run / 'sensor.pty'}"]
        command += ["-chardev", f"socket,id=stranger,path={run / 'stranger.sock'}", "-qmp", f"unix:{unix('qmp.sock')[5:]}"]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
        self.qmp = connect(run / "qmp.sock", self.process).makefile("rw")
        self.qmp.readline()
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        self.qmp.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.qmp.flush()
        while True:
            answer = json.loads(self.qmp.readline())
            if "error" in answer:
                return answer["error"]["desc"]
            if "return" in answer:
                return answer["return"].get("status", "done")

    def plug(self, name):
        """A device that was just pulled is given up by the emulator only a moment later."""
        end = time.monotonic() + 60
        while (answer := self.command("device_add", **self.devices[name])) != "done" and time.monotonic() < end:
            time.sleep(0.2)
        return answer

    def processor_s(self):
        """How long processors have worked for it."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def wanted_s(self):
        """How long its threads have worked or waited for a processor; only the former, if the kernel does not say."""
        wanted = 0
        for schedule in Path(f"/proc/{self.process.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                wanted += sum(int(word) for word in schedule.read_text().split()[:2])
        return max(wanted / 1e9, self.processor_s())

    def obey(self):
        """Does what the guest asks, one line a request, until the port closes."""

        def booted():
            self.booting_since = None
            return "welcome"

        def counted():
            # The made, not the safe: of the last one delivered there, the sensor may hear only from the next process.
            self.uncounted = set(made_and_safe(JOURNALS["uart"])[0])
            return "from now on"

        def reboots():
            self.booting_since = self.processor_s()
            return "see you"

        hands = connect(run / "hands.sock", self.process).makefile("rw")
        for request in hands:
            verb, _, rest = request.strip().partition(" ")
            log("guest:", request.strip())
            answer = {
                "booted": booted,
                "counted": counted,
                "reboots": reboots,
                "plug": lambda: self.plug(rest),
                "unplug": lambda: self.command("device_del", id=rest),
                "tell": lambda: self.sensor.tell(rest),
                "label": lambda: self.sensor.label,
                "unsafe": lambda: str(sum(len(unsafe(journal)) for journal in JOURNALS.values())),
                "missing": lambda: str(sum(len(lost) for _, _, _, lost in fates(self.uncounted))),
                "stranger": lambda: str(self.stranger.heard),
            }.get(verb, lambda: "no such request")()
            hands.write(answer + "\n")
            hands.flush()


def arrived():
    """The names of the readings that came to the broker's subscriber, as often as they came."""
    collected = run / "share/collected"
    text = collected.read_text() if collected.exists() else ""
    return re.findall(r"\b[0-9a-f]{16}\.[0-9a-f]{16}\.[0-9]+\b", text)


def fates(uncounted):
    """Of each link: what was made, what was called safe, what of that did not arrive."""
    came = set(arrived())
    for link, journal in JOURNALS.items():
        made, safe = made_and_safe(journal)
        yield link, made, safe, sorted(set(safe) - came - uncounted)


def account(uncounted):
    """What was made, what was called safe, what came, on each link; the verdict in words, empty when all is well."""
    came = arrived()
    log(f"{len(set(came))} readings arrived in {len(came)} deliveries")
    for link, made, safe, lost in fates(uncounted):
        least = {"uart": 50, "ble": 10}[link]
        log(f"{link}: {len(made)} made, {len(safe)} acknowledged, {len(lost)} of those lost")
        if len(safe) < least:
            return f"{link}: only {len(safe)} readings were acknowledged"
        if lost:
            return f"{link}: {len(lost)} acknowledged readings did not arrive, such as {lost[:3]}"
    return ""


def attempt():
    """One life of the machine; whether its boot hung, and the readings that do not count."""
    shutil.rmtree(run, ignore_errors=True)
    (run / "share").mkdir(parents=True)
    shutil.copy(package, run / "share")
    for part in (here / "guest.py", here.parent.parent / "hardware/ble-bridge/bridge.py"):
        shutil.copy(part, run / "share")
    sensor = Sensor()
    machine = Machine(sensor, Stranger())
    threading.Thread(target=machine.obey, daemon=True).start()
    try:
        looked = (time.monotonic(), 0.0)
        while machine.process.poll() is None:
            time.sleep(0.2)
            now, boot, worked, wanted = (
                time.monotonic(), machine.booting_since, machine.processor_s(), machine.wanted_s()
            )
            is_idle = False
            if boot is None or now - looked[0] > IDLE_S:
                is_idle = wanted - looked[1] < LITTLE_S
                looked = (now, wanted)
            if boot is not None and (is_idle or worked - boot > BOOT_S):
                # "io-error": the disk under target/ is full, and the emulator waits for room.
                log("the machine does not boot; it is", machine.command("query-status"))
                return True, set()
            if now - started > limit_s:
                log(f"the machine did not end within {limit_s} s")
                break
        return False, machine.uncounted
    finally:
        for process in (machine.process, sensor.process):
            process.kill()
            process.wait()


def main():
    for _ in range(ATTEMPTS):
        hung, uncounted = attempt()
        if not hung:
            break
    results = (run / "share/results").read_text() if (run / "share/results").exists() else ""
    print(results, end="")
    if not results.endswith("\nall steps passed\n"):
        log("FAILED; what happened:", run)
        return 1
    wrong = account(uncounted)
    if wrong:
        log("FAILED:", wrong)
    return int(bool(wrong))


sys.exit(main())
