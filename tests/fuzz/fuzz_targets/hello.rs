//! HELLO and its answers: any bytes are one or an error, what was read is within its limits, and is written and read
//! again as the same.

use ghostwire::wire::hello::{self, Hello, NAME_MAX, REASON_MAX};

pub fn run(data: &[u8]) {
    if let Ok(hello) = Hello::decode(data) {
        assert!(hello.versions.min <= hello.versions.max);
        for name in [&hello.site, &hello.uplink] {
            assert!(name.len() <= NAME_MAX && !name.chars().any(char::is_control));
        }
        let written = hello.encode(3);
        let again = Hello::decode(&written).expect("what was written is read");
        assert_eq!(again.encode(3), written);
    }
    if let Ok(answer) = hello::decode_answer(data) {
        match &answer {
            Ok(welcome) => assert!(welcome.site.len() <= NAME_MAX),
            Err(refusal) => assert!(refusal.reason.len() <= REASON_MAX),
        }
        assert_eq!(hello::decode_answer(&hello::encode_answer(answer.as_ref(), 3)), Ok(answer));
    }
}
