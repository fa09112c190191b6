//! Public suffixes: names under which anybody may register, such as `com`, `co.uk` and `s3.amazonaws.com`. A wildcard right above such
//! a name would speak for strangers. The list is data of the caller (<https://publicsuffix.org/list/>); Debian has it as `publicsuffix`.

use std::collections::BTreeSet;

/// Rules of one list. The real one has ten thousand.
const RULES_MAX: usize = 50_000;

/// A list of public suffixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublicSuffixes {
    /// In ASCII, lower case, with `*` and `!` as the list has them.
    rules: BTreeSet<Box<str>>,
}

impl PublicSuffixes {
    /// Reads a list in the format of publicsuffix.org, both of its sections. Names beyond ASCII are turned into their `xn--` form.
    pub fn parse(list: &str) -> Self {
        let rule = |line: &str| line.split_whitespace().next().filter(|rule| !rule.starts_with("//")).map(ascii);
        Self { rules: list.lines().filter_map(rule).take(RULES_MAX).collect() }
    }

    /// How many rules it has.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has no rule: then only names of one label count as suffixes.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `name`, in ASCII, is itself a public suffix. A top level that no rule names is one too.
    pub fn contains(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        if self.rules.contains(&*format!("!{name}")) {
            return false;
        }
        let parent = name.split_once('.').map(|(_, parent)| parent);
        let by_wildcard = parent.is_some_and(|parent| self.rules.contains(&*format!("*.{parent}")));
        by_wildcard || self.rules.contains(&*name) || parent.is_none()
    }
}

fn ascii(rule: &str) -> Box<str> {
    let label = |label: &str| if label.is_ascii() { label.to_lowercase() } else { punycode(&label.to_lowercase()) };
    rule.split('.').map(label).collect::<Vec<_>>().join(".").into()
}

/// `xn--` and the label in Punycode (RFC 3492, 6.3).
fn punycode(label: &str) -> String {
    const BASE: u32 = 36;
    const SKEW: u32 = 38;
    let mut text: String = label.chars().filter(char::is_ascii).collect();
    let basic = text.len() as u32;
    if basic > 0 {
        text.push('-');
    }
    let (mut next, mut delta, mut bias, mut done) = (128_u32, 0_u32, 72_u32, basic);
    let total = label.chars().count() as u32;
    while done < total {
        let Some(smallest) = label.chars().map(u32::from).filter(|c| *c >= next).min() else { break };
        delta = delta.saturating_add((smallest - next).saturating_mul(done + 1));
        next = smallest;
        for c in label.chars().map(u32::from) {
            if c < next {
                delta = delta.saturating_add(1);
            }
            if c != next {
                continue;
            }
            let mut rest = delta;
            for k in (BASE..).step_by(BASE as usize) {
                let threshold = k.saturating_sub(bias).clamp(1, 26);
                if rest < threshold {
                    break;
                }
                text.push(digit(threshold + (rest - threshold) % (BASE - threshold)));
                rest = (rest - threshold) / (BASE - threshold);
            }
            text.push(digit(rest));
            let mut scaled = if done == basic { delta / 700 } else { delta / 2 };
            scaled += scaled / (done + 1);
            let mut steps = 0;
            while scaled > ((BASE - 1) * 26) / 2 {
                scaled /= BASE - 1;
                steps += BASE;
            }
            bias = steps + BASE * scaled / (scaled + SKEW);
            (delta, done) = (0, done + 1);
        }
        delta = delta.saturating_add(1);
        next += 1;
    }
    format!("xn--{text}")
}

fn digit(value: u32) -> char {
    char::from_digit(value, 36).map_or('0', |_| {
        if value < 26 { char::from(b'a' + value as u8) } else { char::from(b'0' + (value - 26) as u8) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_wildcards_and_exceptions() {
        let list = "// a comment\ncom\nuk\nco.uk\n*.ck\n!www.ck\ns3.amazonaws.com\n公司.cn\n\n";
        let suffixes = PublicSuffixes::parse(list);
        for suffix in ["com", "co.uk", "CO.UK", "x.ck", "s3.amazonaws.com", "nowhere", "xn--55qx5d.cn"] {
            assert!(suffixes.contains(suffix), "{suffix}");
        }
        for owned in ["example.com", "example.co.uk", "www.ck", "a.x.ck", "amazonaws.com"] {
            assert!(!suffixes.contains(owned), "{owned}");
        }
    }

    #[test]
    fn punycode_as_others_write_it() {
        for (label, written) in [("公司", "xn--55qx5d"), ("münchen", "xn--mnchen-3ya"), ("ไทย", "xn--o3cw4h")]
        {
            assert_eq!(punycode(label), written);
        }
    }
}
