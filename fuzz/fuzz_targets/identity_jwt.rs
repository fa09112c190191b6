//! Tokens from strangers. The bytes are a whole token, and also header and claims (apart by a zero byte) of one that is put
//! together here, so that the fuzzer need not learn base64. None is ever valid, and what is read holds its bounds.
#![no_main]

use std::sync::LazyLock;

use data_encoding::BASE64URL_NOPAD;
use libfuzzer_sys::fuzz_target;
use x0t_identity::{
    AudienceSet, AwsLcKeys, Bundle, BundleMap, JwtPublicKey, JwtSvid, JwtValidator, KeyId, KeySource,
};
use x0t_model::UnixTime;

const NOW: UnixTime = UnixTime::from_secs(1_795_262_400);

/// One key, made anew for each run: nobody can have signed with it.
static BUNDLES: LazyLock<BundleMap> = LazyLock::new(|| {
    let mut bundles = BundleMap::new();
    let key = AwsLcKeys.generate_p256().ok().and_then(|key| JwtPublicKey::from_spki(key.public_key_info()).ok());
    let keys = key.into_iter().map(|key| (KeyId::thumbprint(&key), key));
    let bundle = "mesh.test".parse().ok().and_then(|domain| Bundle::new(domain, Vec::new(), 1).ok());
    if let Some(bundle) = bundle.and_then(|bundle| bundle.with_jwt_keys(keys).ok()) {
        let _ = bundles.offer(bundle);
    }
    bundles
});

fuzz_target!(|bytes: &[u8]| {
    if let Ok(token) = std::str::from_utf8(bytes) {
        read(token);
    }
    let mut parts = bytes.splitn(2, |byte| *byte == 0).map(|part| BASE64URL_NOPAD.encode(part));
    if let (Some(header), Some(claims)) = (parts.next(), parts.next()) {
        read(&format!("{header}.{claims}.{}", "A".repeat(86)));
    }
});

fn read(token: &str) {
    let Ok(audience) = AudienceSet::parse(["web"]) else { return };
    assert!(JwtValidator::default().validate(token, &audience, &BUNDLES, NOW).is_err());
    if let Ok(svid) = JwtSvid::read(token, NOW) {
        assert!(svid.audience().iter().count() > 0 && svid.expires_at().as_secs() <= 253_402_300_799);
        assert!(!format!("{svid:?}").contains(token));
    }
}
