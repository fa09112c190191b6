//! Certificates for the validator: any bytes are read or refused, what is read can be shown, and nothing that vouches for itself alone
//! is believed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_identity::validation::{
    Anchors, Certificate, Expected, Options, Purpose, Standard, TrustDomains, validate_peer, validate_svid,
};
use x0t_model::UnixTime;
use x0t_overlay::CertificateDer;

fuzz_target!(|bytes: &[u8]| {
    // As many certificates as there are elements one behind the other.
    let mut chain = Vec::new();
    let mut rest = bytes;
    while let [0x30, 0x82, high, low, ..] = rest {
        let len = (4 + usize::from(*high) * 256 + usize::from(*low)).min(rest.len());
        chain.push(CertificateDer::from(&rest[..len]));
        rest = &rest[len..];
    }
    for der in &chain {
        if let Ok(certificate) = Certificate::parse(der) {
            assert_eq!(certificate.der(), der.as_ref());
            let _ = format!("{} {} {certificate:?}", certificate.subject(), certificate.issuer());
        }
    }
    let Some((anchors, chain)) = chain.split_last() else { return };
    let now = UnixTime::from_secs(1_795_262_400);
    let anchors = std::slice::from_ref(anchors);
    let mut trust = TrustDomains::default();
    if let Ok(domain) = "mesh.test".parse() {
        trust.insert(domain, Anchors::new(anchors));
    }
    let options = Options { is_thorough: true, ..Options::svid(now) };
    let validation = validate_svid(chain, &trust, &options);
    assert_eq!(validation.report.failed().next().is_some(), validation.result.is_err());
    let standard = Standard::Rfc5280;
    let expected = Expected { purpose: Purpose::ServerAuth, names: &[], suffixes: None, standard };
    let validation = validate_peer(chain, &Anchors::new(anchors), &expected, &Options::web(now));
    assert_eq!(validation.report.failed().next().is_some(), validation.result.is_err());
});
