//! SPIFFE IDs and node ids: what parses prints back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_model::{NodeId, SpiffeId, TrustDomain};

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert_eq!(id.to_string(), text);
    }
    if let Ok(domain) = text.parse::<TrustDomain>() {
        assert_eq!(domain.as_str(), text);
    }
    let _ = text.parse::<NodeId>();
});
