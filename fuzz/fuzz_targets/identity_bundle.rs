//! Bundle documents, bundle maps, key sets and public keys from strangers: any bytes are read or refused, and what is read is
//! written and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_identity::{Bundle, BundleMap, JwtPublicKey};

fuzz_target!(|bytes: &[u8]| {
    let Ok(domain) = "mesh.test".parse::<x0t_model::TrustDomain>() else { return };
    if let Ok(bundle) = Bundle::from_json(domain.clone(), bytes) {
        assert_eq!(Bundle::from_json(domain, &bundle.to_json()).as_ref(), Ok(&bundle));
        assert_eq!(Bundle::jwt_keys_from_jwks(&bundle.to_jwks()).as_ref(), Ok(bundle.jwt_keys()));
    }
    if let Ok(map) = BundleMap::from_json(bytes) {
        assert_eq!(BundleMap::from_json(&map.to_json()), Ok(map));
    }
    let _ = Bundle::jwt_keys_from_jwks(bytes);
    if let Ok(key) = JwtPublicKey::from_spki(bytes) {
        assert_eq!(JwtPublicKey::from_spki(key.to_spki()), Ok(key));
    }
});
