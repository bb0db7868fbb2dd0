//! The handshake as a stranger can meet it: the first byte of the input says which of the three messages the rest is.
//! Nothing but the genuine message, which is one of the seeds, gets through.

use ghostwire::wire::noise::{Ephemeral, Initiator, NoiseError, PrivateKey, Psk, Responder};

pub fn run(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    let (client, server) = (PrivateKey::from_bytes([1; 32]), PrivateKey::from_bytes([2; 32]));
    let psk = Psk::from_bytes([5; 32]);
    let respond = |message: &[u8]| Responder::read(&server, Ephemeral::from_random_bytes([4; 32]), message);
    let start = || {
        Initiator::start(&client, &server.public(), &psk, Ephemeral::from_random_bytes([3; 32]), b"hello")
            .expect("a short payload fits")
    };
    match kind % 3 {
        0 => match respond(message) {
            // Anybody can write a first message in a name of their own.
            Ok((_, peer, responder)) => {
                if peer == client.public() {
                    assert_eq!(message, start().0, "only the client's own message bears its name");
                }
                let (_, unproven) = responder.answer(&psk, b"welcome").expect("a short payload fits");
                assert_eq!(unproven.prove(&message[..40]).unwrap_err(), NoiseError::Open);
            }
            Err(error) => assert!(!matches!(error, NoiseError::Local(_)), "{error}"),
        },
        1 => {
            let (first, initiator) = start();
            match initiator.finish(message) {
                Ok(_) => {
                    let (second, _) = respond(&first).expect("genuine").2.answer(&psk, b"welcome").expect("short");
                    assert_eq!(message, second);
                }
                Err(error) => assert!(!matches!(error, NoiseError::Local(_)), "{error}"),
            }
        }
        _ => {
            let (first, initiator) = start();
            let (second, unproven) = respond(&first).expect("genuine").2.answer(&psk, b"welcome").expect("short");
            match unproven.prove(message) {
                Ok(_) => {
                    let padding = message.len() - 16;
                    let (_, secrets) = initiator.finish(&second).expect("genuine");
                    assert_eq!(message, secrets.confirm(padding).expect("as long as the one that was read"));
                }
                Err(error) => assert!(!matches!(error, NoiseError::Local(_)), "{error}"),
            }
        }
    }
}
