//! PEM out (RFC 7468).

use data_encoding::BASE64;
use rustls_pki_types::CertificateDer;
use zeroize::Zeroizing;

/// Certificates, one after the other.
pub(crate) fn certificates(certificates: &[CertificateDer<'static>]) -> Vec<u8> {
    let mut text = Zeroizing::new(String::new());
    for certificate in certificates {
        write(&mut text, "CERTIFICATE", certificate);
    }
    text.as_bytes().to_vec()
}

/// A private key in PKCS#8.
pub(crate) fn private_key(pkcs8: &[u8]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    write(&mut text, "PRIVATE KEY", pkcs8);
    text
}

fn write(text: &mut Zeroizing<String>, label: &str, der: &[u8]) {
    let body = Zeroizing::new(BASE64.encode(der));
    // Room for everything at once: a growing buffer would leave copies of a key behind.
    text.reserve(body.len() + body.len() / 64 + 2 * label.len() + 40);
    for part in ["-----BEGIN ", label, "-----\n"] {
        text.push_str(part);
    }
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = tail;
    }
    for part in ["-----END ", label, "-----\n"] {
        text.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for len in [1, 47, 48, 49, 96, 1000] {
            let der = vec![7; len];
            let text = certificates(&[CertificateDer::from(der.clone())]);
            assert_eq!(CertificateDer::from_pem_slice(&text).unwrap().as_ref(), der);
            assert!(text.split(|byte| *byte == b'\n').all(|line| line.len() <= 64));
        }
    }
}
