//! PROXY headers: more is asked for only while less than a header is there, and what was read can be written.

use ghostwire::wire::proxy_protocol::{HEADER_MAX, Progress, Version, parse, write};

pub fn run(data: &[u8]) {
    match parse(data) {
        Ok(Progress::Needs(count)) => assert!(count > data.len() && count <= HEADER_MAX),
        Ok(Progress::Whole(length, ends)) => {
            assert!(length <= data.len() && length <= HEADER_MAX);
            assert_eq!(parse(&data[..length]), Ok(Progress::Whole(length, ends)), "what follows does not matter");
            let Some(ends) = ends else { return };
            for version in [Version::V1, Version::V2] {
                let header = write(version, ends);
                let Ok(Progress::Whole(length, again)) = parse(&header) else { panic!("{header:?} is no header") };
                assert_eq!(length, header.len());
                // Mapped addresses are told as what they are.
                if let Some(again) = again {
                    assert_eq!(again.source.ip(), ends.source.ip().to_canonical());
                    assert_eq!(again.destination.port(), ends.destination.port());
                }
            }
        }
        Err(_) => {}
    }
}
