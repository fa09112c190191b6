//! Revocation lists, OCSP answers and OCSP questions: any bytes are read or refused, and every line of a list can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_identity::validation::{OcspQuestion, OcspResponse, RevocationList};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(list) = RevocationList::parse(bytes) {
        assert!(list.entries().all(|entry| !entry.serial.is_empty()));
        let _ = format!("{} {list:?}", list.issuer());
    }
    if let Ok(answer) = OcspResponse::parse(bytes) {
        let _ = format!("{answer:?}");
    }
    if let Ok(question) = OcspQuestion::parse(bytes) {
        let _ = format!("{question:?}");
    }
});
