//! Answers of proxies: more is asked for only while less than an answer is there, and never more than its limit.

use ghostwire::wire::via::{HEAD_MAX, Progress, ViaError, answer, method, reply, verdict};

pub fn run(data: &[u8]) {
    check(data, 2, |data| method(data).map(forget));
    check(data, 2, verdict);
    check(data, 4 + 256 + 2, reply);
    check(data, HEAD_MAX, answer);
}

fn forget<T>(progress: Progress<T>) -> Progress<()> {
    match progress {
        Progress::Needs(count) => Progress::Needs(count),
        Progress::Whole(length, _) => Progress::Whole(length, ()),
    }
}

fn check(data: &[u8], most: usize, parse: impl Fn(&[u8]) -> Result<Progress<()>, ViaError>) {
    match parse(data) {
        Ok(Progress::Needs(count)) => assert!(count > data.len() && count <= most, "{count} of {most}"),
        Ok(Progress::Whole(length, ())) => {
            assert!(length <= data.len() && length <= most);
            assert_eq!(parse(&data[..length]), Ok(Progress::Whole(length, ())), "what follows does not matter");
        }
        Err(_) => {}
    }
}
