#!/usr/bin/env python3
"""The tests of the installed package, run inside the machine as root by run-tests.service.

Each step is a function; its doc string is what it shows. The first that fails ends the run. State that must survive the
reboot in the middle stands in PHASE.
"""
import contextlib
import grp
import json
import os
import pwd
import re
import stat
import subprocess
import threading
import time
import traceback
from pathlib import Path

SHARE = Path("/mnt/share")
PHASE = Path("/var/lib/vm-phase")
STATE = Path("/var/lib/clawgate")
PORT = Path("/dev/clawgate/line1")
# Emulation on a busy machine is slow; nothing here asserts speed.
PATIENCE_S = 240


def run(*command, check=True, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE_S, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def until(what, condition):
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.25)
    return value


def hands(request):
    """Asks the world outside for something: a plug pulled, a button pressed."""
    with open("/dev/virtio-ports/hands", "r+b", buffering=0) as port:
        port.write(request.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += port.read(256) or nobody()
    return answer.decode().strip()


def nobody():
    raise AssertionError("the world outside is gone")


def plug(device):
    answer = hands(f"plug {device}")
    assert answer == "done", f"{device} was not plugged in: {answer}"


def clawgate(*words, user=None, **options):
    before = ["runuser", "-u", user, "--"] if user else []
    return run(*before, "clawgate", *words, **options)


def status():
    done = clawgate("status", "--json", check=False)
    return json.loads(done.stdout) if done.returncode in (0, 8) else None


def port():
    return next(iter((status() or {}).get("ports", [])), {})


def confirmed(name):
    """How many of its readings the broker has confirmed to this process of the daemon; waits for its word."""
    said = until("the daemon says how it is", status)
    return sum(d["relay"]["confirmed"] for d in said["devices"] if d["id"] == name)


def unit(key):
    return run("systemctl", "show", "--value", "--property", key, "clawgate.service").stdout.strip()


def pair(target, name, label, press):
    """Pairs, as a person does it: the button, the command, and once more if the time ran out on a busy machine."""

    def once():
        press()
        done = clawgate("pair", target, "--name", name, user="tech", check=False, input=label + "\n")
        said = done.stdout + done.stderr
        # Not heard, not in time, refused (its time was over first), not confirmed in time. A wrong code is none of these.
        assert done.returncode in (0, 3, 5, 6, 7), f"exit {done.returncode}: {said}"
        if done.returncode:
            note(f"not paired yet, tried again: {said}")
        return done.returncode == 0 and said

    said = until(f"{name} is paired", once)
    assert f"{name} is paired" in said, said


def flows(name="pump-3"):
    """New readings of a device reach the broker from now on."""
    before = confirmed(name)
    # The daemon counts from 0 after a restart.
    until(f"readings of {name} reach the broker", lambda: not before <= confirmed(name) <= before + 2)


class Air:
    """A sensor on the air: the simulated sensor, and a virtual adapter of this machine that hears it."""

    def __init__(self):
        words = ["--label", "random", "--device", "th-2", "--keys", "/var/lib/air.keys", "--every", "1s"]
        words += ["--log", SHARE / "air.journal", "--ble-socket", "/run/air.sock"]
        command = [str(word) for word in ["clawgate", "simulator", *words]]
        self.sensor = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.label = next(line.split()[1] for line in self.sensor.stdout if line.startswith("label "))
        self.silent = threading.Event()
        threading.Thread(target=self.listen, daemon=True).start()
        run("modprobe", "hci_vhci")
        self.plug_radio()

    def listen(self):
        for line in self.sensor.stdout:
            if line == "silent\n":
                self.silent.set()

    def tell(self, words):
        self.sensor.stdin.write(words + "\n")
        self.sensor.stdin.flush()

    def plug_radio(self, mtu=517):
        """An adapter appears, as when a dongle is plugged in; links to its sensor have this ATT MTU."""
        command = ["python3", str(SHARE / "bridge.py"), "--socket", "/run/air.sock", "--vhci", "vhci"]
        command += ["--max-mtu", str(mtu)]
        log = open(SHARE / "bridge.log", "a")
        self.bridge = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": "/opt/bumble"}, stdout=log, stderr=log)
        until("there is an adapter", adapters)

    def pull_radio(self):
        self.bridge.kill()
        self.bridge.wait()
        until("the adapter is gone", lambda: not adapters())


def adapters():
    return list(Path("/sys/class/bluetooth").glob("hci[0-9]"))


air = None


def package():
    return next(SHARE.glob("clawgate_*.deb"))


# --- before the reboot


def installs_without_systemd():
    """On a machine where systemd does not run, the package installs, says what is off, and purges without a trace."""
    script = f"mount -t tmpfs none /run && dpkg -i {package()} && dpkg --purge clawgate"
    said = run("unshare", "--mount", "sh", "-c", script).stdout
    assert "systemd does not run here" in said, said
    assert not Path("/usr/bin/clawgate").exists() and not STATE.exists() and not Path("/etc/clawgate").exists()


def installs():
    """apt installs it; the service is up, enabled, ready, and its socket is systemd's."""
    run("apt-get", "install", "--yes", "--no-install-recommends", package(), env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    until("the service is active", lambda: unit("ActiveState") == "active")
    assert unit("Type") == "notify" and unit("User") == "clawgate", unit("Type")
    for name in ("clawgate.service", "clawgate.socket"):
        assert run("systemctl", "is-enabled", name).stdout.strip() == "enabled"
    assert until("the daemon says how it is", status)["mode"] == "standalone"
    until("the daemon feeds the watchdog", lambda: unit("WatchdogTimestampMonotonic") != "0")


def is_hardened():
    """The running unit's exposure is at most 1.6, and its files verify."""
    said = run("systemd-analyze", "security", "--no-pager", "--threshold=16", "clawgate.service").stdout
    note(said.strip().splitlines()[-1])
    run("systemd-analyze", "verify", "--man=no", "clawgate.service", "clawgate.socket")
    pid = unit("MainPID")
    words = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert words["CapBnd"] == "0" * 16 and words["NoNewPrivs"] == "1" and words["Seccomp"] == "2", words


def files_are_private():
    """No file of the state is open to others, the socket only to its group, and nobody else may connect."""
    owner = pwd.getpwnam("clawgate").pw_uid
    paths = [STATE, *STATE.rglob("*")]
    assert len(paths) > 4, paths
    for path in paths:
        try:
            found = path.lstat()
        except FileNotFoundError:
            # The daemon writes some files beside their places and then moves them there.
            continue
        assert found.st_uid == owner and found.st_mode & 0o077 == 0, f"{path}: {oct(found.st_mode)} {found.st_uid}"
    socket = Path("/run/clawgate/control.sock").stat()
    assert stat.S_IMODE(socket.st_mode) == 0o660 and grp.getgrgid(socket.st_gid).gr_name == "clawgate"
    refused = clawgate("status", user="nobody", check=False)
    assert refused.returncode != 0, "nobody was let in"


def a_technician_is_let_in():
    """A user of the group, with the role of an operator, may use the command line; the reload takes the role."""
    run("useradd", "--groups", "clawgate", "tech")
    Path("/etc/clawgate/conf.d/roles.toml").write_text('[control.roles]\noperator = ["group:clawgate"]\n')
    run("systemctl", "reload", "clawgate")
    until("the role is taken", lambda: clawgate("status", user="tech", check=False).returncode in (0, 8))


def a_sensor_is_plugged_in():
    """udev names the port that the site's rule lists, and no other; the daemon sees it without being told."""
    rule = 'SUBSYSTEM=="tty", ENV{ID_SERIAL_SHORT}=="A1B2C3", ENV{CLAWGATE_PORT}="line1"\n'
    Path("/etc/udev/rules.d/65-clawgate-ports.rules").write_text(rule)
    run("udevadm", "control", "--reload")
    plug("sensor")
    until("udev names the port", PORT.exists)
    run("udevadm", "settle")
    assert grp.getgrgid(PORT.stat().st_gid).gr_name == "clawgate" and stat.S_IMODE(PORT.stat().st_mode) == 0o660
    assert "ID_MM_DEVICE_IGNORE=1" in run("udevadm", "info", "--query=property", f"--name={PORT}").stdout
    until("the port is open", lambda: port().get("state") == "open")


def the_technician_pairs_it():
    """scan lists it, pair takes the label's code and waits for the first reading's way to the broker."""
    scan = lambda: clawgate("scan", "--for", "2s", "--json", user="tech", check=False).stdout
    until("the sensor is found", lambda: "line" in scan())
    hands("tell button")
    label = hands("label")
    wrong = label[:-2] + ("0" if label[-2] != "0" else "1") + label[-1]
    typo = clawgate("pair", "line", "--name", "pump-3", user="tech", check=False, input=wrong + "\n")
    assert typo.returncode in (2, 4), f"{typo.returncode} {typo.stdout}{typo.stderr}"
    pair("line", "pump-3", label, press=lambda: hands("tell button"))
    flows()


def a_broker_of_its_own():
    """Named in the configuration, a mosquitto gets the readings; from here on each of them is counted."""
    Path("/etc/clawgate/conf.d/broker.toml").write_text('mode = "relay"\n[broker]\nurl = "mqtt://127.0.0.1:1883"\n')
    # What comes in a slow reboot is more than it would keep for a subscriber that is away.
    Path("/etc/mosquitto/conf.d/queue.conf").write_text("max_queued_messages 100000\n")
    run("systemctl", "restart", "mosquitto")
    collect()
    run("systemctl", "stop", "clawgate")
    # Nothing takes readings now: those made until here may have gone to the broker before, all later ones go to this one.
    hands("counted")
    run("systemctl", "start", "clawgate")
    flows()
    until("they are counted", lambda: (SHARE / "collected").exists() and (SHARE / "collected").stat().st_size > 0)


def collect():
    """Writes the name of each reading that comes to mosquitto into the shared folder."""
    run("systemctl", "start", "mosquitto")
    listen = "mosquitto_sub -h 127.0.0.1 -V 5 -i collector -c -x 3600 -q 1 -t claw/v1/+/+/+/up/telemetry"
    if not (SHARE / "collected").exists():
        # First only the subscription, which the broker then keeps; over its restart too.
        until("the broker takes the subscription", lambda: run(*listen.split(), "-E", check=False).returncode == 0)
    # Straight into the file and line by line, so that nothing it has taken is lost when it is stopped.
    out = f"--property=StandardOutput=append:{SHARE}/collected"
    run("systemd-run", "--quiet", "--unit=collector", out, "stdbuf", "-oL", *listen.split(), "-F", "%P")


def two_daemons_on_a_port():
    """A second daemon finds the port taken and says so; the first one's session goes on; root is told who has it."""
    folder = Path("/run/second")
    folder.mkdir()
    os.chown(folder, pwd.getpwnam("clawgate").pw_uid, -1)
    (folder / "clawgate.toml").write_text(
        f'mode = "standalone"\nstate_dir = "{folder}/state"\n[control]\nsocket = "{folder}/sock"\n'
        '[standalone]\nlisten = "127.0.0.1:0"\n[issuer]\nlisten = "127.0.0.1:0"\n[metrics]\nlisten = "off"\n'
        f'[uart.ports.line]\npath = "{PORT}"\n'
    )
    run("systemd-run", "--quiet", "--unit=second", "--property=User=clawgate", "clawgate", "run", "--config", folder / "clawgate.toml")

    def taken():
        done = clawgate("status", "--json", "--socket", folder / "sock", check=False)
        return [port["state"] for port in json.loads(done.stdout)["ports"]] if done.returncode in (0, 8) else []

    # Before it has tried, its port is no more than named.
    seen = until("the second daemon tells of its port", lambda: {"busy", "open"}.intersection(taken()))
    assert seen == {"busy"}, seen
    flows()
    assert until("the second daemon still tells of it", taken) == ["busy"]
    run("systemctl", "stop", "second")
    run("systemctl", "stop", "clawgate.socket", "clawgate.service")
    with open(PORT) as held:
        said = clawgate("doctor", "--json", check=False).stdout
        assert f"process {os.getpid()} (python3) holds it" in said, said
        assert '"does not run"' in said, said
        held.close()
    run("systemctl", "start", "clawgate.socket", "clawgate.service")
    flows()

    def is_well():
        done = clawgate("doctor", check=False)
        (SHARE / "doctor").write_text(done.stdout + done.stderr)
        return done.returncode == 0

    until("doctor finds nothing wrong; what it said stands in share/doctor", is_well)


def unplugged_and_back_as_another_tty():
    """Pulled out while readings flow, three times, and back as another tty: the session comes back, a stranger's port
    that took the old name gets not a byte."""
    before = os.path.realpath(PORT)
    for _ in range(3):
        hands("unplug sensor")
        until("the port is gone", lambda: not PORT.exists() and port().get("state") != "open")
        if not Path("/dev/ttyUSB0").exists():
            until("the stranger has the old name", stranger_takes_the_name)
        plug("sensor")
        until("the port is back", PORT.exists)
        flows()
    assert os.path.realpath(PORT) != before, before
    assert unit("NRestarts") == "0"
    assert hands("stranger") == "0", "something was written to a port that is not ours"


def stranger_takes_the_name():
    """The kernel gives a name away only once the last of the old port is gone, which may be after the port's own end."""
    plug("stranger")
    by_id = until("the stranger is there", lambda: list(Path("/dev/serial/by-id").glob("*Z9*")))
    if os.path.realpath(by_id[0]) == "/dev/ttyUSB0":
        return True
    hands("unplug stranger")
    until("the stranger is gone", lambda: not list(Path("/dev/serial/by-id").glob("*Z9*")))
    return False


def the_technician_pairs_over_the_air():
    """An adapter appears under the running daemon; scan hears a sensor, pair takes its label's code, readings flow."""
    global air
    air = Air()
    run("systemctl", "start", "bluetooth")

    def heard():
        # Its window is open for five minutes, whatever the adapter took.
        air.tell("button")
        lines = clawgate("scan", "--for", "5s", "--json", user="tech", check=False).stdout.splitlines()
        found = [json.loads(line) for line in lines]
        found = [f for f in found if f["link"].startswith("ble") and f["state"] == "pairable"]
        return next((f for f in found if f["rssi_dbm"] is not None), None)

    found = until("the sensor is heard", heard)
    # The state stands in the scan response; BlueZ gives the strength of what it heard.
    assert -100 <= found["rssi_dbm"] < 0, found
    pair(found["id"], "pump-4", air.label, press=lambda: air.tell("button"))
    flows("pump-4")


def bluetoothd_restarts():
    """systemctl restart bluetooth: serial goes on, and the sensor on the air comes back by itself."""
    run("systemctl", "restart", "bluetooth")
    flows("pump-3")
    flows("pump-4")
    assert unit("NRestarts") == "0"


def the_adapter_goes_and_comes_back():
    """Without an adapter serial goes on; plugged in again, the sensor on the air comes back by itself, at another MTU."""
    air.pull_radio()
    flows("pump-3")
    air.plug_radio(mtu=185)
    flows("pump-4")
    agreed = re.findall(r"mtu (\d+)", (SHARE / "bridge.log").read_text())
    assert agreed[0] == "517" and agreed[-1] == "185", agreed
    assert unit("NRestarts") == "0"


def killed():
    """kill -9: systemd starts it again, a command that comes meanwhile waits, readings go on."""
    pid = unit("MainPID")
    os.kill(int(pid), 9)
    # What a dying process still takes in is lost with it; what comes from here on waits.
    until("it is dead", lambda: not Path("/proc", pid).exists())
    assert clawgate("status", "--json", check=False).returncode in (0, 8), "a command during the restart failed"
    assert unit("NRestarts") == "1", unit("NRestarts")
    flows()


def a_refused_configuration():
    """A configuration that is refused ends with 78 and no restart; commands are refused, not left hanging."""
    bad = Path("/etc/clawgate/conf.d/bad.toml")
    bad.write_text("[spool]\ncommit_ms = 0\n")
    run("systemctl", "restart", "clawgate", check=False)
    until("it gave up", lambda: unit("ActiveState") == "failed")
    assert unit("ExecMainStatus") == "78"
    refused = clawgate("status", check=False)
    assert refused.returncode not in (0, 8), refused.stdout
    until("it is not tried for ever", lambda: unit("ActiveState") == "failed")
    bad.unlink()
    run("systemctl", "reset-failed", "clawgate.service", "clawgate.socket", check=False)
    run("systemctl", "restart", "clawgate.socket", "clawgate.service")
    flows()


def the_key_is_sealed_to_the_machine():
    """The master key as a systemd credential: taken, and the file is not needed any more."""
    store = Path("/etc/credstore.encrypted")
    store.mkdir(mode=0o700, exist_ok=True)
    run("systemd-creds", "setup")
    run("systemd-creds", "encrypt", "--with-key=host", "--name=clawgate-master-key", STATE / "master.key", store / "clawgate-master-key")
    (STATE / "master.key").rename("/root/master.key")
    run("systemctl", "restart", "clawgate")
    flows()
    assert not (STATE / "master.key").exists()


def reboots():
    """The machine restarts in order."""
    PHASE.write_text("2")
    dump()
    # What comes from now on, the broker keeps for it. The broker goes first: a subscriber that is stopped while readings
    # come may have acknowledged one that it does not write any more.
    run("systemctl", "stop", "mosquitto")
    until("the subscriber has written all it took", lambda: not run("ss", "-Htn", "dport = :1883").stdout.strip())
    run("systemctl", "stop", "collector")
    hands("reboots")
    run("systemctl", "--no-block", "reboot")


# --- after the reboot


def is_back_after_the_reboot():
    """After a reboot the service is up by itself, and the sensor's session comes back."""
    until("the service is active", lambda: unit("ActiveState") == "active")
    collect()
    until("the port is open", lambda: port().get("state") == "open")
    flows("pump-3")
    global air
    air = Air()
    flows("pump-4")


def everything_arrives():
    """The sensor falls silent; all it made becomes safe. What arrived is compared outside."""
    hands("tell silence")
    air.tell("silence")
    assert air.silent.wait(PATIENCE_S), "the sensor on the air goes on"
    until("all readings are safe", lambda: hands("unsafe") == "0")
    until("nothing waits", lambda: (said := status()) and said["spool"]["waiting"] == 0)
    # What is lost never comes, and is told of outside.
    with contextlib.suppress(AssertionError):
        until("all that is safe has come to the broker's subscriber", lambda: hands("missing") == "0")


def leaves_the_keys():
    """A purge takes the package and its configuration, and leaves the keys unless asked."""
    script = Path("/var/lib/dpkg/info/clawgate.postrm").read_text()
    said = run("dpkg", "--purge", "clawgate").stdout
    assert "kept: /var/lib/clawgate" in said and (STATE / "state.db").exists(), said
    assert not Path("/usr/bin/clawgate").exists() and not Path("/etc/clawgate/clawgate.toml").exists()
    assert run("systemctl", "is-active", "clawgate.socket", check=False).stdout != "active\n"
    run("sh", "-c", script, "postrm", "purge", env={**os.environ, "CLAWGATE_PURGE": "keys"})
    assert not STATE.exists()


STEPS = {
    1: [
        installs_without_systemd,
        installs,
        is_hardened,
        files_are_private,
        a_technician_is_let_in,
        a_sensor_is_plugged_in,
        the_technician_pairs_it,
        a_broker_of_its_own,
        two_daemons_on_a_port,
        unplugged_and_back_as_another_tty,
        the_technician_pairs_over_the_air,
        bluetoothd_restarts,
        the_adapter_goes_and_comes_back,
        killed,
        a_refused_configuration,
        the_key_is_sealed_to_the_machine,
        reboots,
    ],
    2: [is_back_after_the_reboot, files_are_private, everything_arrives, leaves_the_keys],
}


def note(words):
    line = f"[{Path('/proc/uptime').read_text().split()[0]:>6}] {words}\n"
    with open(SHARE / "results", "a") as results:
        results.write(line)
    print(line, end="", flush=True)


def dump():
    journal = subprocess.run(["journalctl", "--boot", "--no-pager", "-o", "short-monotonic"], capture_output=True, text=True)
    with open(SHARE / "journal", "a") as file:
        file.write(journal.stdout)


def main():
    hands("booted")
    phase = int(PHASE.read_text()) if PHASE.exists() else 1
    for step in STEPS[phase]:
        try:
            step()
        except Exception:
            note(f"FAILED {step.__name__}\n{traceback.format_exc()}")
            break
        note(f"ok     {re.sub(' +', ' ', step.__doc__.replace(chr(10), ' '))}")
    else:
        if phase == 1:
            return
        with open(SHARE / "results", "a") as results:
            results.write("all steps passed\n")
    dump()
    subprocess.run(["sync"])
    subprocess.run(["systemctl", "poweroff", "-ff"])


main()
