//! PEM out (RFC 7468); reading is `rustls_pki_types::pem`.

use data_encoding::BASE64;
use zeroize::Zeroizing;

/// Appends `der` to `out` as one PEM section.
pub(crate) fn write(out: &mut Zeroizing<String>, label: &str, der: &[u8]) {
    let body = Zeroizing::new(BASE64.encode(der));
    // Room for everything at once: a growing buffer would leave copies of a key behind.
    out.reserve(body.len() + body.len() / 64 + 2 * label.len() + 40);
    for part in ["-----BEGIN ", label, "-----\n"] {
        out.push_str(part);
    }
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    for part in ["-----END ", label, "-----\n"] {
        out.push_str(part);
    }
}
