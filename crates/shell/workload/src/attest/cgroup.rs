//! What a process's control group says of it: the systemd unit, the container, the pod.
//!
//! A path in the cgroup tree is only worth what its makers are worth. systemd and container runtimes, run by root, make the
//! upper part; below a delegated unit (`user@1000.service`, a privileged container) whoever was given it names groups as they
//! please. So a path is read from the root downwards, and reading stops at the first group that may be delegated: that one is the
//! unit or the container, and whatever it contains has no say.

/// Bytes of `/proc/PID/cgroup`. The kernel's paths have at most 4,096 bytes, on up to 14 lines.
pub(crate) const CGROUP_LEN_MAX: usize = 64 * 1024;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// The path in the tree.
    pub(crate) path: Option<String>,
    /// The systemd system unit, as `systemctl status PID` names it.
    pub(crate) unit: Option<String>,
    /// The container, if a known runtime made the group.
    pub(crate) container: Option<Container>,
    /// The UID of the Kubernetes pod.
    pub(crate) pod: Option<String>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    /// `docker`, `containerd`, `crio`, `podman`, or `None` where the path does not tell (cgroupfs driver under Kubernetes).
    pub(crate) runtime: Option<&'static str>,
    /// 64 hexadecimal digits.
    pub(crate) id: String,
}

/// Reads `/proc/PID/cgroup` (cgroups(7)): the line of the unified hierarchy, or that of systemd's own where there is none.
pub(crate) fn parse(text: &[u8]) -> Cgroup {
    let lines = || text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let unified = lines().find_map(|line| line.strip_prefix("0::"));
    let systemd = || lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
    // On a hybrid host the unified line may be there and say only "/".
    let path = unified.filter(|path| *path != "/").or_else(systemd).or(unified);
    path.map(read_path).unwrap_or_default()
}

fn read_path(path: &str) -> Cgroup {
    let parts = || path.split('/').skip(1);
    // ".." is how the kernel shows what lies outside of our own cgroup namespace: nothing can be said of it.
    if !path.starts_with('/') || path.len() > 4096 || path.chars().any(char::is_control) || parts().any(|p| p == "..") {
        return Cgroup::default();
    }
    let mut found = Cgroup { path: Some(path.to_owned()), unit: unit(path), ..Cgroup::default() };
    let mut above = "";
    for part in parts() {
        if part == "user.slice" {
            break;
        }
        if let Some(pod) = pod_uid(part).filter(|_| is_kubepods(above)) {
            found.pod = Some(pod);
        } else if let Some(container) = container(above, part, found.pod.is_some()) {
            found.container = Some(container);
            break;
        } else if !is_trunk(part) {
            break;
        }
        above = part;
    }
    found
}

/// The first component that is not a slice, if it is named like a unit (systemd's own rule, `cg_path_get_unit`).
fn unit(path: &str) -> Option<String> {
    let first = path.split('/').skip(1).find(|part| !part.ends_with(".slice"))?;
    // systemd puts an underscore before names that the kernel reserves.
    let name = first.strip_prefix('_').unwrap_or(first);
    let (stem, kind) = name.rsplit_once('.')?;
    (matches!(kind, "service" | "scope" | "socket" | "mount" | "swap") && !stem.is_empty()).then(|| name.to_owned())
}

/// Groups above pods and containers, which only root can make.
fn is_trunk(part: &str) -> bool {
    part.ends_with(".slice")
        || matches!(
            part,
            "docker" | "kubepods" | "burstable" | "besteffort" | "guaranteed" | "machine" | "libpod_parent"
        )
}

fn is_kubepods(part: &str) -> bool {
    part.starts_with("kubepods") || matches!(part, "burstable" | "besteffort" | "guaranteed")
}

/// `kubepods-burstable-pod1111_2222.slice` (systemd driver) or `pod1111-2222` (cgroupfs driver).
fn pod_uid(part: &str) -> Option<String> {
    let uid = match part.strip_suffix(".slice") {
        Some(stem) => stem.strip_prefix("kubepods-")?.rsplit_once("pod")?.1.replace('_', "-"),
        None => part.strip_prefix("pod")?.to_owned(),
    };
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let shaped = uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (digits == 32 && shaped).then_some(uid)
}

fn container(above: &str, part: &str, in_pod: bool) -> Option<Container> {
    let (runtime, id) = match part.strip_suffix(".scope") {
        Some(stem) => {
            let (prefix, id) = stem.rsplit_once('-')?;
            let runtime = match prefix {
                "docker" => "docker",
                "cri-containerd" => "containerd",
                "crio" => "crio",
                "libpod" => "podman",
                _ => return None,
            };
            (Some(runtime), id)
        }
        None if above == "docker" => (Some("docker"), part),
        None if above == "libpod_parent" => (Some("podman"), part.strip_prefix("libpod-")?),
        None if in_pod => (None, part),
        None => return None,
    };
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (id.len() == 64 && id.bytes().all(hex)).then(|| Container { runtime, id: id.to_owned() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "6c2b2f0e-1111-4222-8333-444455556666";

    fn read(path: &str) -> Cgroup {
        parse(format!("0::{path}\n").as_bytes())
    }

    #[test]
    fn the_unit_is_the_first_group_that_is_no_slice() {
        for (path, unit) in [
            ("/system.slice/web.service", Some("web.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            ("/system.slice/web.service/system.slice/other.service", Some("web.service")),
            ("/init.scope", Some("init.scope")),
            ("/system.slice/_tasks.service", Some("tasks.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/session-3.scope", Some("session-3.scope")),
            ("/web.service.d", None),
            ("/system.slice", None),
            ("/system.slice/.service", None),
            ("/", None),
        ] {
            assert_eq!(read(path).unit.as_deref(), unit, "{path}");
        }
    }

    #[test]
    fn containers_of_each_runtime_are_recognised() {
        for (path, runtime) in [
            (format!("/system.slice/docker-{ID}.scope"), Some("docker")),
            (format!("/docker/{ID}"), Some("docker")),
            (format!("/docker/{ID}/inner"), Some("docker")),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some("podman")),
            (format!("/libpod_parent/libpod-{ID}"), Some("podman")),
        ] {
            let found = read(&path).container;
            assert_eq!(found, Some(Container { runtime, id: ID.into() }), "{path}");
        }
    }

    #[test]
    fn pods_are_recognised_with_both_drivers() {
        let slice = format!("kubepods-burstable-pod{}.slice", POD.replace('-', "_"));
        for (path, runtime) in [
            (format!("/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{ID}.scope"), Some("containerd")),
            (format!("/kubepods.slice/kubepods-burstable.slice/{slice}/crio-{ID}.scope"), Some("crio")),
            (format!("/kubepods/besteffort/pod{POD}/{ID}"), None),
            (format!("/kubepods/pod{POD}/{ID}"), None),
        ] {
            let found = read(&path);
            assert_eq!(found.pod.as_deref(), Some(POD), "{path}");
            assert_eq!(found.container, Some(Container { runtime, id: ID.into() }), "{path}");
        }
    }

    #[test]
    fn a_delegated_group_cannot_pretend_to_be_a_container_or_a_pod() {
        for path in [
            format!("/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope"),
            format!("/user.slice/user-1000.slice/user@1000.service/docker/{ID}"),
            format!("/user.slice/docker-{ID}.scope"),
            format!("/system.slice/web.service/docker/{ID}"),
            format!("/system.slice/web.service/kubepods/pod{POD}/{ID}"),
            format!("/elsewhere/docker/{ID}"),
        ] {
            let found = read(&path);
            assert_eq!((found.container, found.pod), (None, None), "{path}");
        }
        // Inside a container that was given its own subtree, the outermost one counts: it is the one that the host made.
        let other = ID.replace('0', "f");
        let nested = read(&format!("/system.slice/docker-{ID}.scope/docker-{other}.scope/kubepods/pod{POD}/{other}"));
        assert_eq!(nested.container.unwrap().id, ID);
        assert_eq!(nested.pod, None);
    }

    #[test]
    fn nothing_is_said_of_what_lies_outside_of_our_namespace() {
        assert_eq!(read("/../../system.slice/web.service"), Cgroup::default());
        assert_eq!(read("system.slice/web.service"), Cgroup::default());
        assert_eq!(read("/system.slice/a\u{7}.service"), Cgroup::default());
        assert_eq!(parse(b""), Cgroup::default());
        assert_eq!(parse(b"0::/\xff.service\n"), Cgroup::default());
    }

    #[test]
    fn older_hierarchies_are_read_by_the_line_of_systemd() {
        let text = "12:cpu:/wrong.service\n1:name=systemd:/system.slice/web.service\n0::/\n";
        assert_eq!(parse(text.as_bytes()).unit.as_deref(), Some("web.service"));
    }

    #[test]
    fn identifiers_of_another_shape_are_none() {
        for id in [&ID[1..], &ID.to_uppercase(), &format!("{ID}0"), &ID.replace('a', "g")] {
            assert_eq!(read(&format!("/docker/{id}")).container, None, "{id}");
        }
        for pod in ["1", &format!("{POD}0"), &POD.replace('b', "z"), "../x"] {
            assert_eq!(read(&format!("/kubepods/pod{pod}/{ID}")).pod, None, "{pod}");
        }
    }

    proptest! {
        #[test]
        fn no_content_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), path in "[/a-z.0-9_-]{0,200}") {
            parse(&bytes);
            read(&path);
        }
    }
}
