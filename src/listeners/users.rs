//! Who may use a proxy: names with passwords, as a file has them.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::Zeroizing;

use crate::wire::socks5::Credentials;

/// Longest name and longest password (RFC 1929 §2).
const PART_MAX: usize = 255;

/// Users of one listener. Without any, everybody who reaches it may use it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Users(Vec<(Vec<u8>, Zeroizing<Vec<u8>>)>);

impl Users {
    /// Reads lines of `name:password`; empty ones and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// The number of a line and what is wrong with it; nothing of what it says.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut users: Vec<(Vec<u8>, Zeroizing<Vec<u8>>)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_end_matches('\r');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |what: &str| Err(format!("line {}: {what}", at + 1));
            let Some((user, password)) = line.split_once(':') else { return wrong("is not NAME:PASSWORD") };
            if !(1..=PART_MAX).contains(&user.len()) || !(1..=PART_MAX).contains(&password.len()) {
                return wrong("name and password have 1 to 255 bytes each");
            }
            if users.iter().any(|(known, _)| known == user.as_bytes()) {
                return wrong("names a user that was named before");
            }
            users.push((user.into(), Zeroizing::new(password.into())));
        }
        if users.is_empty() { Err("there is no user in it".into()) } else { Ok(Self(users)) }
    }

    /// Whether anybody may come.
    pub fn is_open(&self) -> bool {
        self.0.is_empty()
    }

    /// The first of them.
    pub fn first(&self) -> Option<Credentials> {
        self.0.first().map(|(user, password)| Credentials { user: user.clone(), password: password.to_vec() })
    }

    /// Whether these are good. Takes as long for a wrong password as for the right one.
    pub fn permits(&self, credentials: Option<&Credentials>) -> bool {
        let Some(credentials) = credentials else { return self.is_open() };
        let known = self.0.iter().find(|(user, _)| *user == credentials.user);
        let password = known.map_or(&[][..], |(_, password)| password);
        let equal = verify_slices_are_equal(password, &credentials.password).is_ok();
        self.is_open() || known.is_some() && equal
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} users", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: password.into() }
    }

    #[test]
    fn only_those_in_the_file_may_come_with_their_own_passwords() {
        let users = Users::parse("# people\nann:one\r\n\nbob:two:three\n").unwrap();
        for (user, password, good) in [
            ("ann", "one", true),
            ("bob", "two:three", true),
            ("ann", "two:three", false),
            ("ann", "", false),
            ("eve", "", false),
            ("", "", false),
        ] {
            assert_eq!(users.permits(Some(&credentials(user, password))), good, "{user}");
        }
        assert!(!users.permits(None));
        assert!(Users::default().permits(None) && Users::default().permits(Some(&credentials("x", "y"))));
        assert_eq!(format!("{users:?}"), "2 users");
    }

    #[test]
    fn a_file_that_is_wrong_says_where_and_nothing_of_its_content() {
        for (text, problem) in [
            ("ann:one\nsecret", "line 2: is not NAME:PASSWORD"),
            (":x", "line 1: name and password have 1 to 255 bytes each"),
            ("x:", "line 1: name and password have 1 to 255 bytes each"),
            ("a:b\na:c", "line 2: names a user that was named before"),
            ("# nobody\n", "there is no user in it"),
        ] {
            assert_eq!(Users::parse(text).unwrap_err(), problem);
        }
    }
}
