//! What the environment decides beyond clap's `env`: the default state directory and NO_COLOR.

use std::path::{Path, PathBuf};

/// Where root keeps state, by the file hierarchy standard.
const SYSTEM_STATE_DIR: &str = "/var/lib/x0t";

/// `/var/lib/x0t` for root, `$XDG_STATE_HOME/x0t` or `~/.local/state/x0t` for everybody else.
pub fn default_state_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    state_dir_of(rustix::process::geteuid().is_root(), variable("XDG_STATE_HOME"), variable("HOME"))
}

/// Where the key is that seals the authority's private keys, if not in the state directory: a credential of systemd, or a file that
/// another host keeps.
pub fn seal_key_file() -> Option<PathBuf> {
    std::env::var_os("X0T_SEAL_KEY_FILE").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Where the Workload API of this host is, as other SPIFFE programs are told.
pub fn workload_api_of_host() -> Option<String> {
    std::env::var_os("SPIFFE_ENDPOINT_SOCKET")
        .and_then(|endpoint| endpoint.into_string().ok())
        .filter(|endpoint| !endpoint.is_empty())
}

/// Whether the user asked all programs not to use colours (no-color.org).
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

fn state_dir_of(is_root: bool, xdg_state_home: Option<PathBuf>, home: Option<PathBuf>) -> PathBuf {
    // The XDG specification has relative paths ignored.
    let absolute = |path: Option<PathBuf>| path.filter(|path| path.is_absolute());
    if is_root {
        return Path::new(SYSTEM_STATE_DIR).to_owned();
    }
    match (absolute(xdg_state_home), absolute(home)) {
        (Some(state), _) => state.join("x0t"),
        (None, Some(home)) => home.join(".local/state/x0t"),
        (None, None) => Path::new(SYSTEM_STATE_DIR).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_keeps_state_in_var_lib_and_others_at_home() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(state_dir_of(true, path("/s"), path("/h")), Path::new("/var/lib/x0t"));
        assert_eq!(state_dir_of(false, path("/s"), path("/h")), Path::new("/s/x0t"));
        assert_eq!(state_dir_of(false, path("relative"), path("/h")), Path::new("/h/.local/state/x0t"));
        assert_eq!(state_dir_of(false, None, None), Path::new("/var/lib/x0t"));
    }
}
