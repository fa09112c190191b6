//! What the kernel says of a process in `/proc` (proc(5)), parsed from text that the process itself may have shaped.

use std::collections::BTreeSet;

/// Why a file of `/proc` is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel's {0} of the process is not readable")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// The words of `/proc/PID/stat` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// Clock ticks between boot and the start of the process: with the PID, it names a process for good.
    pub(crate) started: u64,
    /// `Z` and `X`: dead, but not yet collected by its parent.
    pub(crate) is_dead: bool,
}

/// Reads `/proc/PID/stat`. The second field is the process's own choice and may hold anything, closing parentheses too: the
/// fields behind it begin after the last one.
pub(crate) fn parse_stat(text: &[u8]) -> Result<Stat, Malformed> {
    let end = text.iter().rposition(|byte| *byte == b')').ok_or(Malformed("stat"))?;
    let rest = std::str::from_utf8(&text[end + 1..]).map_err(|_| Malformed("stat"))?;
    let mut words = rest.split_ascii_whitespace();
    let state = words.next().ok_or(Malformed("stat"))?;
    // Field 22; the state was field 3.
    let started = words.nth(18).and_then(|word| word.parse().ok()).ok_or(Malformed("stat"))?;
    Ok(Stat { started, is_dead: matches!(state, "Z" | "X" | "x") })
}

/// Who a process acts as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The effective user id.
    pub(crate) uid: u32,
    /// The effective group id.
    pub(crate) gid: u32,
    /// The supplementary groups.
    pub(crate) groups: BTreeSet<u32>,
}

/// Reads the credentials out of `/proc/PID/status`. The name on its first line is escaped by the kernel, so it cannot make a
/// line of its own; the first line with a label counts all the same.
pub(crate) fn parse_status(text: &[u8]) -> Result<Credentials, Malformed> {
    let ids = |label: &str| {
        let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(label.as_bytes()));
        let line = std::str::from_utf8(line.ok_or(Malformed("status"))?).map_err(|_| Malformed("status"))?;
        let ids = line.split_ascii_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>();
        ids.map_err(|_| Malformed("status"))
    };
    // Real, effective, saved, file system.
    let (uids, gids) = (ids("Uid:")?, ids("Gid:")?);
    let ([_, uid, _, _], [_, gid, _, _]) = (&uids[..], &gids[..]) else { return Err(Malformed("status")) };
    Ok(Credentials { uid: *uid, gid: *gid, groups: ids("Groups:")?.into_iter().collect() })
}

/// The name that `/etc/passwd` or `/etc/group` gives to `id`: first field, with the id in the third (passwd(5), group(5)).
pub(crate) fn name_of(table: &[u8], id: u32) -> Option<&str> {
    table.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = std::str::from_utf8(line).ok()?.split(':');
        let (name, found) = (fields.next()?, fields.nth(1)?);
        (found.parse() == Ok(id) && !name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &[u8] = b"Name:\tweb\nUmask:\t0022\nUid:\t1000\t1001\t1000\t1000\nGid:\t100\t101\t100\t100\nGroups:\t4 27 4\nVmPeak:\t1 kB\n";

    #[test]
    fn the_start_time_stands_behind_a_name_that_tries_to_look_like_the_rest() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        for name in ["web", ") S 1 2 3", "a b) (", "\u{fffd}", "))))"] {
            let stat = parse_stat(format!("77 ({name}) {tail}").as_bytes()).unwrap();
            assert_eq!(stat, Stat { started: 4242, is_dead: false });
        }
        let mut bytes = b"77 (\xff\xfe) ".to_vec();
        bytes.extend(tail.as_bytes());
        assert_eq!(parse_stat(&bytes).unwrap().started, 4242);
        assert!(parse_stat(format!("77 (web) {}", tail.replacen('S', "Z", 1)).as_bytes()).unwrap().is_dead);
    }

    #[test]
    fn a_stat_that_is_cut_off_is_an_error_and_never_a_guess() {
        let whole = "77 (web) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 ";
        for len in 0..whole.len() {
            assert_eq!(parse_stat(&whole.as_bytes()[..len]), Err(Malformed("stat")));
        }
    }

    #[test]
    fn the_effective_ids_count() {
        let credentials = parse_status(STATUS).unwrap();
        assert_eq!((credentials.uid, credentials.gid), (1001, 101));
        assert_eq!(credentials.groups, BTreeSet::from([4, 27]));
    }

    #[test]
    fn a_status_without_its_lines_is_an_error() {
        for missing in ["Uid:", "Gid:", "Groups:"] {
            let text = String::from_utf8(STATUS.to_vec()).unwrap().replace(missing, "Other:");
            assert_eq!(parse_status(text.as_bytes()), Err(Malformed("status")));
        }
        assert_eq!(parse_status(b"Uid:\t-1\t0\t0\t0\n"), Err(Malformed("status")));
        assert_eq!(parse_status(b""), Err(Malformed("status")));
    }

    #[test]
    fn names_are_looked_up_by_the_third_field() {
        let table = b"root:x:0:0:root:/root:/bin/sh\nbroken\n\xff\xff:x:7:7\nweb:x:1000:1000::/:\n:x:8:8\n";
        assert_eq!(name_of(table, 1000), Some("web"));
        assert_eq!(name_of(table, 0), Some("root"));
        for id in [7, 8, 9] {
            assert_eq!(name_of(table, id), None);
        }
    }
}
