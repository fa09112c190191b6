//! The operations of the suite one by one: `cargo bench -p x0t-bench -- seal`.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on says so by panicking")]

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use x0t_bench::forgery::Flood;
use x0t_bench::issuance::Issuance;
use x0t_bench::line::{Line, Load, SEGMENT_LEN, SEGMENTS};
use x0t_bench::sessions::{DATAGRAM_LEN, Pair, RUN};
use x0t_bench::table::{ORIGINS, Table};
use x0t_bench::{Row, Samples};

fn main() {
    divan::main();
}

#[divan::bench]
fn seal(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new().unwrap();
    bencher.counter(BytesCount::new(RUN * DATAGRAM_LEN)).bench_local(|| pair.seal().unwrap());
}

/// A packet opens once, so this seals too: subtract [`seal`].
#[divan::bench]
fn seal_and_open(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new().unwrap();
    bencher.counter(BytesCount::new(RUN * DATAGRAM_LEN)).bench_local(|| {
        pair.seal().unwrap();
        pair.open().unwrap();
    });
}

#[divan::bench]
fn seal_hops(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new().unwrap();
    bencher.counter(ItemsCount::new(RUN)).bench_local(|| pair.seal_hops().unwrap());
}

#[divan::bench]
fn handshake(bencher: Bencher<'_, '_>) {
    let mut pair = Pair::new().unwrap();
    bencher.bench_local(|| pair.shake_hands().unwrap());
}

#[divan::bench]
fn next_hop_of_a_thousand(bencher: Bencher<'_, '_>) {
    let mut table = Table::new().unwrap();
    bencher.counter(ItemsCount::new(ORIGINS)).bench_local(|| table.look_up(ORIGINS));
}

/// The whole way: two nodes, or three with a relay between.
#[divan::bench(args = [2, 3])]
fn bulk(bencher: Bencher<'_, '_>, nodes: usize) {
    let mut line = Line::of(nodes).unwrap();
    let rows = (Row::SendBulk, Some(Row::ForwardBulk), Row::ReceiveBulk);
    bencher.counter(BytesCount::new(SEGMENTS * SEGMENT_LEN)).bench_local(|| {
        line.pass(Load::Bulk, rows, &mut Samples::default()).unwrap();
    });
}

#[divan::bench(args = [1, 32])]
fn single(bencher: Bencher<'_, '_>, packets: usize) {
    let mut line = Line::of(3).unwrap();
    let rows = (Row::SendSingle, Some(Row::ForwardSingle), Row::ReceiveSingle);
    bencher.counter(ItemsCount::new(packets)).bench_local(|| {
        line.pass(Load::Single(packets), rows, &mut Samples::default()).unwrap();
    });
}

#[divan::bench(args = [Row::ForgedStranger, Row::ForgedHop, Row::ForgedPacket, Row::Replayed, Row::ForgedHello])]
fn refuse(bencher: Bencher<'_, '_>, row: Row) {
    let mut flood = Flood::new().unwrap();
    bencher.bench_local(|| flood.refuse(row));
}

#[divan::bench]
fn issue_x509(bencher: Bencher<'_, '_>) {
    let mut issuance = Issuance::new().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| issuance.issue().unwrap());
}

#[divan::bench]
fn issue_x509_request(bencher: Bencher<'_, '_>) {
    let mut issuance = Issuance::new().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| issuance.issue_request().unwrap());
}

#[divan::bench]
fn mint_jwt(bencher: Bencher<'_, '_>) {
    let mut issuance = Issuance::new().unwrap();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| issuance.mint().unwrap());
}
