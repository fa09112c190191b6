//! The statements of absence, proven: arrows between crates point down, and no core reaches for the world.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::path::{Path, PathBuf};

const CORES: [&str; 5] = ["model", "identity", "overlay", "routing", "node"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The `x0t-*` crates that a crate's manifest lists under `[dependencies]`.
fn dependencies(manifest: &Path) -> Vec<String> {
    let text = fs::read_to_string(manifest).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names = section.lines().filter_map(|line| line.split(['.', '=', ' ']).next());
    names.filter(|name| name.starts_with("x0t-")).map(str::to_owned).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The part of a source file that ships: everything before its test module.
fn shipped(source: &str) -> &str {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source)
}

#[test]
fn no_core_depends_on_a_sibling_core_except_model_and_node_composes_them() {
    for core in CORES {
        let allowed: &[&str] = match core {
            "model" => &[],
            "node" => &["x0t-model", "x0t-identity", "x0t-overlay", "x0t-routing"],
            _ => &["x0t-model"],
        };
        for dependency in dependencies(&root().join(format!("crates/core/{core}/Cargo.toml"))) {
            assert!(allowed.contains(&dependency.as_str()), "core `{core}` must not depend on `{dependency}`");
        }
    }
}

#[test]
fn every_folder_of_the_core_is_known_to_this_test() {
    let mut folders: Vec<_> = fs::read_dir(root().join("crates/core"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    folders.sort();
    let mut known = CORES.map(str::to_owned).to_vec();
    known.sort();
    assert_eq!(folders, known, "a new core needs its arrows said here");
}

#[test]
fn no_core_asks_for_time_randomness_files_environment_or_sockets() {
    let forbidden = [
        ("Instant::now", "a clock"),
        ("SystemTime", "a clock"),
        ("std::fs", "a file"),
        ("std::env", "the environment"),
        ("std::net::UdpSocket", "a socket"),
        ("std::net::Tcp", "a socket"),
        ("std::os::", "the operating system"),
        ("std::thread", "a thread"),
        ("std::process", "a process"),
        ("tokio", "an async runtime"),
        ("async fn", "async"),
        ("thread_rng", "randomness"),
        ("rand::rng", "randomness"),
        ("SysRng", "randomness"),
        ("OsRng", "randomness"),
        ("getrandom", "randomness"),
        ("HashMap", "an order that differs between runs"),
        ("HashSet", "an order that differs between runs"),
        ("println!", "standard output"),
    ];
    for core in CORES {
        for path in sources(&root().join(format!("crates/core/{core}/src"))) {
            let source = fs::read_to_string(&path).unwrap();
            for (number, line) in shipped(&source).lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for (word, what) in forbidden {
                    assert!(!code.contains(word), "{}:{}: `{word}` reaches for {what}", path.display(), number + 1);
                }
            }
        }
    }
}

#[test]
fn async_lives_in_the_shell_and_nowhere_below() {
    for folder in ["crates/core", "crates/sim"] {
        for path in sources(&root().join(folder)) {
            let source = fs::read_to_string(&path).unwrap();
            let code: String = source.lines().filter_map(|line| line.split("//").next()).collect();
            let awaits =
                code.split(".await").skip(1).any(|rest| !rest.starts_with(|c: char| c == '_' || c.is_alphanumeric()));
            assert!(!code.contains("async fn") && !awaits, "{} is async", path.display());
        }
    }
}

#[test]
fn manifests_of_cores_name_no_crate_that_does_io() {
    for core in CORES {
        let manifest = fs::read_to_string(root().join(format!("crates/core/{core}/Cargo.toml"))).unwrap();
        let manifest = manifest.split("[dev-dependencies]").next().unwrap();
        for banned in ["tokio", "socket2", "rustix", "mio", "getrandom", "quinn", "tun-rs"] {
            assert!(!manifest.contains(banned), "core `{core}` must not depend on `{banned}`");
        }
    }
}

#[test]
fn links_in_the_documentation_lead_somewhere() {
    let mut pages = vec![];
    for folder in [root(), root().join("docs"), root().join("docs/design")] {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    assert!(pages.len() > 5);
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.parent().unwrap().join(target);
            assert!(path.exists(), "{} links to {target}, which is not there", page.display());
        }
    }
}
