//! Sealed records: whatever is sent in whichever direction, with time passing, opens as it was; and the first record
//! that was touched on its way is the last that opens.

use std::time::Duration;

use ghostwire::ids::Side;
use ghostwire::runtime::clock;
use ghostwire::wire::seal::{Cipher, EPOCH_TIME, OVERHEAD, SealError, SealPair, Secret};

pub fn run(data: &[u8]) {
    let Some((first, steps)) = data.split_first() else { return };
    let cipher = if first & 1 == 0 { Cipher::Aes256Gcm } else { Cipher::ChaCha20Poly1305 };
    let (up, down) = (Secret::from_bytes([1; 32]), Secret::from_bytes([2; 32]));
    let mut client = SealPair::new(cipher, Side::Client, &up, &down).split();
    let mut server = SealPair::new(cipher, Side::Server, &up, &down).split();
    let mut now = clock::now();
    for step in steps.chunks(2) {
        let (kind, value) = (step[0], step.get(1).copied().unwrap_or_default());
        if kind % 8 == 0 {
            now += EPOCH_TIME.min(Duration::from_secs(u64::from(value)));
            continue;
        }
        let (sealer, opener) =
            if kind % 8 < 4 { (&mut client.0, &mut server.1) } else { (&mut server.0, &mut client.1) };
        sealer.maybe_rekey(now);
        let text = vec![value; usize::from(value) * usize::from(kind)];
        let mut record = text.clone();
        sealer.seal_in_place(&mut record, 0).expect("a short record");
        assert_eq!(record.len(), text.len() + OVERHEAD);
        if kind == 0xff {
            let at = usize::from(value) % record.len();
            record[at] ^= 1;
            assert_eq!(opener.open_in_place(&mut record), Err(SealError::Open));
            let mut next = Vec::new();
            sealer.seal_in_place(&mut next, 0).expect("a short record");
            assert_eq!(opener.open_in_place(&mut next), Err(SealError::Open));
            return;
        }
        let len = opener.open_in_place(&mut record).expect("untouched");
        assert_eq!(record[..len], text);
        assert_eq!(sealer.epoch(), opener.epoch());
    }
}
