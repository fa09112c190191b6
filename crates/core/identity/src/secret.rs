//! A value that is written where it is meant to go, and nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// Serialised as it is, left out of `Debug`, and wiped when it is dropped: for what travels in messages that somebody may want to log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// Keeps `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value. Whoever asks is responsible for where it goes.
    pub const fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_but_not_shown() {
        let secret = Secret::new("open sesame".to_owned());
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"open sesame\"");
        assert_eq!(serde_json::from_str::<Secret<String>>("\"open sesame\"").unwrap(), secret);
        assert_eq!(format!("{:?}", Some(secret)), "Some(Secret)");
    }
}
