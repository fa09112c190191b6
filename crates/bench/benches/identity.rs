//! The operations of `x0t bench identity` one by one: `cargo bench -p x0t-bench --bench identity`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on says so by panicking")]

use divan::Bencher;
use divan::counter::ItemsCount;
use x0t_bench::tokens::{Issuer, Kept, Remembered, TOKENS};
use x0t_bench::validation::Chains;
use x0t_identity::{AwsLcKeys, BUNDLE_JWT_KEYS_MAX, Bundle, JwtPublicKey, KeyId, KeySource};

fn main() {
    divan::main();
}

#[divan::bench]
fn mint(bencher: Bencher<'_, '_>) {
    let issuer = Issuer::new().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| issuer.mint().unwrap());
}

#[divan::bench]
fn validate(bencher: Bencher<'_, '_>) {
    let issuer = Issuer::new().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| issuer.validate().unwrap());
}

#[divan::bench(args = [100, TOKENS])]
fn validate_remembered(bencher: Bencher<'_, '_>, tokens: usize) {
    let mut remembered = Remembered::new(tokens).unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| remembered.validate().unwrap());
}

#[divan::bench(args = [100, TOKENS])]
fn serve_from_cache(bencher: Bencher<'_, '_>, tokens: usize) {
    let mut kept = Kept::new(tokens).unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| kept.serve().unwrap());
}

/// A document with as many JWT keys as a bundle may have.
#[divan::bench]
fn read_bundle(bencher: Bencher<'_, '_>) {
    let key = || JwtPublicKey::from_spki(AwsLcKeys.generate_p256().unwrap().public_key_info()).unwrap();
    let keys = (0..BUNDLE_JWT_KEYS_MAX).map(|_| key()).map(|key| (KeyId::thumbprint(&key), key));
    let bundle = Bundle::new("mesh.test".parse().unwrap(), Vec::new(), 1).unwrap().with_jwt_keys(keys).unwrap();
    let (domain, json) = (bundle.trust_domain().clone(), bundle.to_json());
    bencher.bench_local(|| Bundle::from_json(domain.clone(), &json).unwrap());
}

#[divan::bench]
fn validate_chain(bencher: Bencher<'_, '_>) {
    let chains = Chains::new().unwrap();
    let trust = chains.trust().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| chains.validate(&trust).unwrap());
}

#[divan::bench]
fn validate_among_many(bencher: Bencher<'_, '_>) {
    let chains = Chains::new().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| chains.validate_among_many().unwrap());
}
