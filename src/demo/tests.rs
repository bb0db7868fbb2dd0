//! The demonstration itself, over a path that is quick.

use std::time::Duration;

use super::*;
use crate::units::{Bitrate, ByteSize, Share};

fn options(size: ByteSize) -> Demo {
    Demo {
        stay: false,
        rtt: Duration::from_millis(20),
        loss: Share::from_ppm(2_000),
        rate: Bitrate::from_mbit(100),
        size,
        profile: None,
    }
}

fn run_local<T>(test: impl Future<Output = T>) -> T {
    let runtime = runtime::thread().unwrap();
    LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(Duration::from_secs(300), test).await.expect("in time") })
}

#[test]
fn every_link_is_cut_and_the_downloads_are_intact() {
    run_local(async {
        let options = options(ByteSize::from_mib(8));
        let mut out = Vec::new();
        let mut stage = Stage::build(path(&options).unwrap(), Reach::OriginOnly).await.unwrap();
        let report = stage.play(options.size.bytes(), &mut View::new(&mut out, false)).await.unwrap();
        stage.stop().await;
        assert!(report.is_good());
        assert_eq!(report.transfers.iter().map(|t| t.bytes).collect::<Vec<_>>(), [8 << 20, 2 << 20]);
        let cut = report.cut.expect("a cut in the middle");
        assert!((4 << 20..8 << 20).contains(&cut.at), "{cut:?}");
        assert!(cut.connections >= 1 && cut.flows == 1, "links of both transports: {cut:?}");
        assert!(report.transfers[0].pause >= cut.outage, "nothing passed: {:?}", report.transfers[0]);
        assert!(report.totals[0].link_losses >= 1, "{:?}", report.totals);
        assert_eq!(report.totals[0].resets, 0, "and no stream noticed");
        assert!(report.counts.up.lost + report.counts.down.lost > 0, "the path is a bad one");
        let log = String::from_utf8(out).unwrap();
        for event in ["links are up over quic and ws", "every link is cut", "through SOCKS5: done, the checksum fits"] {
            assert!(log.contains(event), "{log}");
        }
    });
}

#[test]
fn without_the_tunnel_the_same_cut_ends_the_download() {
    run_local(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = listener.local_addr().unwrap();
        tokio::task::spawn_local(origin::serve(listener));
        let targets = impair::Targets { tcp: origin, udp: origin };
        let profile = path(&options(ByteSize::from_mib(8))).unwrap();
        let path = impair::Path::start(&profile, 1, targets).await.unwrap();
        let progress = download::Progress::default();
        let blob = blob::Blob { seed: 1, size: 8 << 20 };
        let download = download::run(download::Via::Forward(path.tcp), origin, blob, &progress);
        let cut = async {
            progress.reached(4 << 20).await;
            path.cut(Duration::from_secs(1)).await.unwrap();
        };
        let (done, ()) = tokio::join!(download, cut);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_site_that_fails_ends_the_demonstration_with_its_reason() {
    run_local(async {
        let mut stage = Stage::build(path(&options(ByteSize::from_mib(1))).unwrap(), Reach::OriginOnly).await.unwrap();
        stage.fail_far();
        let error = stage.play(1 << 30, &mut View::new(Vec::new(), false)).await.unwrap_err();
        assert_eq!(error.to_string(), "the server stopped by itself");
    });
}

#[test]
fn the_path_is_the_one_that_was_asked_for() {
    let asked = Demo { rtt: Duration::from_millis(301), ..options(ByteSize::from_mib(1)) };
    let profile = path(&asked).unwrap();
    assert_eq!(profile.about, "301ms round trip, 0.2% loss, 100mbit each way");
    assert_eq!(profile.up.delay + profile.down.delay, 301 * MILLISECOND);
    for params in [&profile.up, &profile.down] {
        assert_eq!((params.rate, &params.loss), (Some(100_000_000), &Loss::Independent(0.002)));
        assert_eq!(params.buffer_limit, Some(Buffer::Bytes(3_125_000)), "250 ms of the rate");
    }
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/netem/profiles/geo.toml");
    for name in ["geo", file] {
        let profile = path(&Demo { profile: Some(name.into()), ..asked.clone() }).unwrap();
        assert_eq!((profile.name.as_str(), profile.up.delay + profile.down.delay), ("geo", 550 * MILLISECOND));
    }
    let error = path(&Demo { profile: Some("ar-nk".into()), ..asked }).unwrap_err().to_string();
    assert!(error.contains("did you mean `ar-nl`?"), "{error}");
}
