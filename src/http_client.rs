//! What this program asks of others over HTTP: an OAuth server, a store of secrets. TLS with one trust anchor or the
//! web's, no redirects, no proxy, and an end to the time and the size of an answer.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, RootCerts, TlsConfig};
use ureq::typestate::{WithBody, WithoutBody};
use ureq::{Agent, Body, RequestBuilder};
use zeroize::Zeroizing;

use crate::clock::Clock;

/// Of what a server says, this much is shown.
const MAX_WORDS: usize = 200;

/// A client of one server.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    agent: Agent,
    most_bytes: u64,
}

/// The file of the trust anchor cannot be read, or holds no certificate.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub(crate) struct CaError {
    /// The file.
    pub(crate) path: PathBuf,
    /// What is wrong with it.
    pub(crate) reason: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// The network, TLS or the time; in the transport's words.
    Unreachable(String),
    /// It has more than this many bytes.
    TooLong(u64),
}

/// An answer, whatever it says.
#[derive(Debug)]
pub(crate) struct Reply {
    /// HTTP status.
    pub(crate) status: u16,
    /// `Retry-After`, unread.
    pub(crate) retry_after: Option<String>,
    /// `Date`, unread.
    pub(crate) date: Option<String>,
    /// It may hold a token or a secret.
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl HttpClient {
    /// Trusts the CA (PEM) in `ca` alone, the web's roots where there is none. A request takes at most `time`, an answer
    /// has at most `most_bytes`.
    pub(crate) fn new(ca: Option<&Path>, time: Duration, most_bytes: u64) -> Result<Self, CaError> {
        Self::showing(None, ca, time, most_bytes)
    }

    /// The same, and a server that asks for a certificate is shown this one.
    pub(crate) fn showing(
        certificate: Option<&ClientCert>,
        ca: Option<&Path>,
        time: Duration,
        most_bytes: u64,
    ) -> Result<Self, CaError> {
        let mut tls = TlsConfig::builder().client_cert(certificate.cloned());
        if let Some(path) = ca {
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates(path)?));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(time))
            .timeout_connect(Some(time / 2))
            .max_idle_connections(2)
            .proxy(None)
            .user_agent("clawgate")
            .tls_config(tls.build())
            .build();
        Ok(Self { agent: config.new_agent(), most_bytes })
    }

    pub(crate) fn get(&self, url: &str) -> RequestBuilder<WithoutBody> {
        self.agent.get(url)
    }

    pub(crate) fn post(&self, url: &str) -> RequestBuilder<WithBody> {
        self.agent.post(url)
    }

    pub(crate) fn put(&self, url: &str) -> RequestBuilder<WithBody> {
        self.agent.put(url)
    }

    /// What came of a request.
    pub(crate) fn read(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Reply, NoReply> {
        let unreachable = |error: ureq::Error| NoReply::Unreachable(error.to_string());
        let mut answer = answer.map_err(unreachable)?;
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (status, retry_after, date) = (answer.status().as_u16(), header("retry-after"), header("date"));
        let body =
            answer.body_mut().with_config().limit(self.most_bytes).read_to_vec().map_err(|error| match error {
                ureq::Error::BodyExceedsLimit(limit) => NoReply::TooLong(limit),
                other => unreachable(other),
            })?;
        Ok(Reply { status, retry_after, date, body: Zeroizing::new(body) })
    }
}

impl Reply {
    /// How long the server wants to be left alone: seconds, or a date (RFC 9110, section 10.2.3).
    pub(crate) fn retry_after(&self, clock: Option<&Clock>) -> Option<Duration> {
        let text = self.retry_after.as_deref()?.trim();
        if let Ok(seconds) = text.parse() {
            return Some(Duration::from_secs(seconds));
        }
        // Against the server's own date where it sends one: the clocks may differ.
        let now = self.server_time().or_else(|| clock.map(|clock| clock.wall().as_secs()))?;
        Some(Duration::from_secs(http_date(text)?.saturating_sub(now)))
    }

    /// Its `Date`, in seconds since 1970.
    pub(crate) fn server_time(&self) -> Option<u64> {
        http_date(self.date.as_deref()?)
    }
}

/// Whether it names something on the web at all.
pub(crate) fn is_url(url: &str) -> bool {
    place(url).is_some_and(|(scheme, _)| matches!(scheme.as_str(), "http" | "https"))
}

/// Whether a secret may go there: `https`, or `http` to this machine.
pub(crate) fn is_safe(url: &str) -> bool {
    place(url).is_some_and(|(scheme, host)| match scheme.as_str() {
        "https" => true,
        "http" => is_here(&host),
        _ => false,
    })
}

/// Whether a host, without brackets, is this machine.
pub(crate) fn is_here(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The number of a port that can be connected to.
pub(crate) fn port_of(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| is_number && *port != 0)
}

/// Scheme and host of a URL, where it has both, and no port or one that can be.
fn place(url: &str) -> Option<(String, String)> {
    let uri = url.parse::<Uri>().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let (_, port) = uri.authority()?.as_str().rsplit_once(host)?;
    // The parser takes "host:" and "host:99999", too.
    let has_good_port = port.strip_prefix(':').is_none_or(|port| port_of(port).is_some());
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    has_good_port.then(|| uri.scheme_str().map(|scheme| (scheme.to_owned(), bare.to_owned())))?
}

/// A server's words as they may be shown: no control characters, no end of them.
pub(crate) fn plain(words: &str) -> String {
    words.chars().take(MAX_WORDS).flat_map(char::escape_default).collect()
}

/// Seconds since 1970 of an HTTP date.
fn http_date(text: &str) -> Option<u64> {
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    u64::try_from(date.timestamp().as_second()).ok()
}

/// Whether there is a trust anchor in `path`.
pub(crate) fn read_ca(path: &Path) -> Result<(), CaError> {
    certificates(path).map(drop)
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, CaError> {
    let failed = |reason: String| CaError { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let mut all = Vec::new();
    for item in ureq::tls::parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| failed(error.to_string()))? {
            all.push(certificate);
        }
    }
    if all.is_empty() { Err(failed("no certificate in it".to_owned())) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::process::Command;

    use super::*;
    use crate::testing;

    #[test]
    fn a_secret_never_goes_over_an_open_network() {
        for good in ["https://id.example", "http://127.0.0.1:7480", "http://localhost:1/x", "http://[::1]:7480"] {
            assert!(is_safe(good), "{good}");
        }
        for bad in ["http://id.example", "http://10.0.0.1", "ftp://localhost", "localhost", "", "http://127.0.0.1.evil"]
        {
            assert!(!is_safe(bad), "{bad}");
        }
    }

    #[test]
    fn a_url_has_a_port_that_can_be_or_none() {
        for good in
            ["https://id.example", "https://id.example:8443/x", "http://[::1]:1", "https://[::1]", "http://8443"]
        {
            assert!(is_url(good), "{good}");
        }
        for bad in ["https://id.example:", "https://id.example:/x", "https://id:0", "https://id:99999", "http://[::1]:"]
        {
            assert!(!is_url(bad) && !is_safe(bad), "{bad}");
        }
    }

    /// In a process of its own, for the environment is this process's.
    #[test]
    fn asks_where_it_is_told() {
        let Ok(url) = std::env::var("CLAWGATE_TEST_URL") else { return };
        let client = HttpClient::new(None, Duration::from_secs(30), 1000).unwrap();
        assert_eq!(client.read(client.get(&url).call()).unwrap().status, 204);
    }

    #[test]
    fn a_proxy_of_the_environment_is_shown_nothing() {
        let [server, proxy] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let (asked, through) = (url(&server), url(&proxy));
        proxy.set_nonblocking(true).unwrap();
        let serving = std::thread::spawn(move || {
            let mut client = server.accept().unwrap().0;
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            client.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        let mut child = Command::new(std::env::current_exe().unwrap());
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            child.env(name, &through);
        }
        let name = "http_client::tests::asks_where_it_is_told";
        let ended = testing::output(child.args(["--exact", name]).env("CLAWGATE_TEST_URL", asked)).unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
        serving.join().unwrap();
        assert!(proxy.accept().is_err(), "the proxy was asked");
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refusal = || HttpClient::new(Some(file.path()), Duration::from_secs(1), 1).unwrap_err().to_string();
        assert!(refusal().contains("no certificate") && refusal().contains(file.path().to_str().unwrap()));
        std::fs::write(file.path(), "-----BEGIN CERTIFICATE-----\n???\n-----END CERTIFICATE-----\n").unwrap();
        assert!(refusal().contains(file.path().to_str().unwrap()), "{}", refusal());
    }
}
