//! Routing messages: any datagram is walked to its end, record by record, and none makes the walk panic or go on for ever.
#![no_main]

use libfuzzer_sys::fuzz_target;
use x0t_routing::message::{Message, Messages};

fuzz_target!(|bytes: &[u8]| {
    let mut messages = 0;
    for message in Messages::new(bytes) {
        messages += 1;
        match message {
            Ok(Message::Ogm(records)) => assert!(records.ogms().count() <= bytes.len()),
            Ok(Message::Withdraw(records)) => assert!(records.withdrawals().count() <= bytes.len()),
            Ok(_) | Err(_) => {}
        }
    }
    assert!(messages <= bytes.len());
});
