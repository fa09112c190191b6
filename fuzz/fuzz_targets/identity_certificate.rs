//! Certificates and signing requests from strangers: any bytes are read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_identity::{Bundle, Leaf, Svid};
use x0t_overlay::CertificateDer;

fuzz_target!(|bytes: &[u8]| {
    let _ = Leaf::read(&CertificateDer::from(bytes));
    let _ = Svid::from_stored(bytes);
    if let Ok(domain) = "mesh.test".parse() {
        let _ = Bundle::from_json(domain, bytes);
    }
});
