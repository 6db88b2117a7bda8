//! A site of its own for each test: configuration, state, daemon, sensors, all in one temporary folder.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Everything here happens sooner, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Somebody who is neither root nor this user.
pub(crate) const STRANGER: u32 = 65_533;

/// Puts a program there. Another process writes it: what this one has open for writing, a process that is just being
/// started beside it has too, and until that runs nobody can run what is written.
fn install(source: &Path, program: &Path) {
    assert!(Command::new("install").args(["-m", "755"]).args([source, program]).status().unwrap().success());
}

/// Waits for a condition.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) struct Site {
    dir: tempfile::TempDir,
    logs: RefCell<usize>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl Site {
    /// A site in standalone mode, on free ports.
    pub(crate) fn standalone(more: &str) -> Self {
        let site = Self { dir: tempfile::tempdir().unwrap(), logs: RefCell::default() };
        site.configure(&format!("mode = \"standalone\"\n{more}\n[standalone]\nlisten = \"127.0.0.1:0\"\n"));
        site
    }

    /// Writes the configuration anew: `more`, and what every site has.
    pub(crate) fn configure(&self, more: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "state_dir = \"{dir}/state\"\n{more}\n[metrics]\nlisten = \"127.0.0.1:0\"\n[issuer]\nlisten = \"127.0.0.1:0\"\n"
        );
        let control = format!("[control]\nsocket = \"{dir}/control.sock\"\n");
        fs::write(self.config(), if more.contains("[control]") { text } else { text + &control }).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("clawgate.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("control.sock")
    }

    /// The table of a serial line for the configuration.
    pub(crate) fn line(&self, name: &str) -> String {
        format!("[uart.ports.{name}]\npath = \"{}\"\n", self.path(&format!("tty-{name}")).display())
    }

    /// The program where every user may run it; the site's folder stands open for that.
    pub(crate) fn program_for_all(&self) -> PathBuf {
        let program = self.path("clawgate");
        if fs::hard_link(env!("CARGO_BIN_EXE_clawgate"), &program).is_err() {
            install(Path::new(env!("CARGO_BIN_EXE_clawgate")), &program);
        }
        fs::set_permissions(self.path("."), fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    /// A shell script that can be run.
    pub(crate) fn script(&self, name: &str, text: &str) -> PathBuf {
        let (source, program) = (self.path("script"), self.path(name));
        fs::write(&source, format!("#!/bin/sh\n{text}\n")).unwrap();
        install(&source, &program);
        program
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn start(&self) -> Daemon {
        let daemon = self.start_with(|_| {});
        until("the daemon answers", || UnixStream::connect(self.socket()).ok());
        daemon
    }

    /// Starts the daemon, its environment changed.
    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Command)) -> Daemon {
        *self.logs.borrow_mut() += 1;
        let log = self.path(&format!("daemon-{}.log", self.logs.borrow()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_clawgate"));
        command.arg("run").arg("--config").arg(self.config()).env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        change(&mut command);
        Daemon { child: command.spawn().unwrap(), log }
    }

    /// A command that talks to this site's daemon.
    pub(crate) fn command(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("CLAWGATE_SOCKET", self.socket()).env_remove("OPENCLAW_PAIRING_CODE");
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        end(&mut self.command(Path::new(env!("CARGO_BIN_EXE_clawgate")), args))
    }

    /// The same with something on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Ended {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_clawgate")), args);
        let file = self.path("input");
        fs::write(&file, input).unwrap();
        end(command.stdin(File::open(file).unwrap()))
    }

    /// Every line of the audit log.
    pub(crate) fn audit(&self) -> Vec<Value> {
        self.run(&["audit", "tail", "-n", "10000", "--json"]).json().as_array().unwrap().clone()
    }

    pub(crate) fn status(&self) -> Value {
        self.run(&["status", "--json"]).json()
    }

    /// A simulated sensor on the line `name`, with a label code of its own.
    pub(crate) fn sensor(&self, name: &str) -> Sensor {
        self.sensor_with(name, &[])
    }

    /// One that measures 21.5 Cel again and again.
    pub(crate) fn thermometer(&self, name: &str, more: &[&str]) -> Sensor {
        let rows = self.path("rows.csv");
        fs::write(&rows, format!("temperature:Cel\n{}", "21.5\n".repeat(1000))).unwrap();
        self.sensor_with(name, &[&["--csv", rows.to_str().unwrap()], more].concat())
    }

    /// With further options of the simulator.
    pub(crate) fn sensor_with(&self, name: &str, more: &[&str]) -> Sensor {
        let link = self.path(&format!("tty-{name}"));
        let called: &[&str] = if more.contains(&"--name") { &[] } else { &["--name", "TH-Kit"] };
        let every: &[&str] = if more.contains(&"--every") { &[] } else { &["--every", "100ms"] };
        let mut child = Command::new(env!("CARGO_BIN_EXE_clawgate"))
            .args(["simulator", "--label", "random", "--pty"])
            .arg(&link)
            .args(called)
            .args(every)
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let label = lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.strip_prefix("label ")?.to_owned()));
        // What it says later is not read; the pipe is drained so that it never waits.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        until("the sensor's line is there", || link.exists().then_some(()));
        Sensor { child, input, label: label.unwrap() }
    }

    /// Pairs the sensor on the line `name`, by its label, under that name.
    pub(crate) fn pair(&self, name: &str, sensor: &mut Sensor) -> Ended {
        self.open_window(name, sensor);
        self.run_with(&["pair", name, "--name", name], &sensor.label)
    }

    /// Presses the sensor's button and waits until the gateway sees it.
    pub(crate) fn open_window(&self, name: &str, sensor: &mut Sensor) {
        sensor.say("button");
        until("the window is open", || {
            let found = self.run(&["scan", "--for", "100ms", "--json"]).out;
            found.lines().any(|line| line.contains(name) && line.contains("pairable")).then_some(())
        });
    }

    /// Everything that the daemons of this site have logged.
    pub(crate) fn log(&self) -> String {
        (1..=*self.logs.borrow()).map(|n| fs::read_to_string(self.path(&format!("daemon-{n}.log"))).unwrap()).collect()
    }

    /// Sends bytes to the control socket as they are and reads what comes, until its end.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        // The daemon may answer and close before it has read everything.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Runs a command to its end.
pub(crate) fn end(command: &mut Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A running daemon; killed when the test ends.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// A process that was started otherwise.
    pub(crate) fn of(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> i32 {
        until("the daemon ends", || self.child.try_wait().unwrap()).code().unwrap_or(-1)
    }

    /// Whether it has ended.
    pub(crate) fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn stop(mut self) -> i32 {
        self.signal(Signal::TERM);
        self.ended()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("its daemon said:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

/// A running sensor; killed when the test ends.
pub(crate) struct Sensor {
    child: Child,
    input: ChildStdin,
    pub(crate) label: String,
}

impl Sensor {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn say(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }
}

impl Drop for Sensor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
