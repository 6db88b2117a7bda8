//! The mosquitto plugin of this workspace, built for a test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Where the plugin is; built first when it is not fresh.
pub(crate) fn path() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            // target/<profile>/deps/<test> -> target/<profile>
            let test = std::env::current_exe().unwrap();
            let folder = test.parent().and_then(std::path::Path::parent).unwrap();
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut build = Command::new(cargo);
            build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "-q", "-p", "clawgate-mosquitto-jwt"]);
            build.arg("--target-dir").arg(folder.parent().unwrap());
            if folder.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "the plugin was not built");
            folder.join("libclawgate_mosquitto_jwt.so")
        })
        .clone()
}

/// Lines of mosquitto's configuration: the plugin with `jwks` and `denylist` of the broker's folder (`{dir}`).
///
/// The queue is bounded: with `max_queued_messages 0` mosquitto 2.0.11 ends a connection after it refused a publish.
pub(crate) fn config(issuer: &str) -> String {
    format!(
        "allow_anonymous false\nmax_queued_messages 100000\nplugin {}\nplugin_opt_key_file {{dir}}/jwks\nplugin_opt_issuer {issuer}\n\
         plugin_opt_audience claw\nplugin_opt_denylist_file {{dir}}/denylist\n",
        path().display()
    )
}
