//! HTTPS: which hosts are the right one.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::post;
use axum_server::tls_rustls::RustlsConfig;
use hyperv::{CimSession, Endpoint, Error, Trust};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use wsman::{Header, Operation, Reply, Request, Response};

/// A host with a certificate of its own CA: address, the CA's PEM, the certificate's fingerprint.
async fn host() -> (SocketAddr, String, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let ca_key = KeyPair::generate().expect("keys can be made");
    let mut ca = CertificateParams::new(Vec::new()).expect("no names are fine");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).expect("a CA can be made").pem();
    let key = KeyPair::generate().expect("keys can be made");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let issuer = Issuer::new(ca, ca_key);
    let certificate = CertificateParams::new(names)
        .expect("names are fine")
        .signed_by(&key, &issuer)
        .expect("it can be signed");
    let digest = ring::digest::digest(&ring::digest::SHA256, certificate.der());
    let fingerprint: String = digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();

    let config = RustlsConfig::from_pem(
        certificate.pem().into_bytes(),
        key.serialize_pem().into_bytes(),
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener
        .set_nonblocking(true)
        .expect("sockets can be non-blocking");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let server =
        axum_server::from_tcp_rustls(listener, config.await.expect("the certificate is good"))
            .expect("it listens");
    let identify = || async {
        let request = Request {
            header: Header::default(),
            operation: Operation::Identify,
        };
        let reply = Reply::Identify {
            vendor: "V".into(),
            version: "OS: 1".into(),
        };
        Response::to(&request, "uuid:1", "", reply).to_xml()
    };
    let app = Router::new().route("/wsman", post(identify));
    tokio::spawn(server.serve(app.into_make_service()));
    (address, ca_pem, fingerprint)
}

async fn identify(address: SocketAddr, trust: Trust) -> Result<(), Error> {
    let endpoint = Endpoint {
        trust,
        ..Endpoint::new(format!("https://{address}/wsman"))
    };
    CimSession::new(&endpoint)?.identify().await.map(drop)
}

#[tokio::test]
async fn the_right_certificate_is_accepted_and_no_other() {
    let (address, ca, fingerprint) = host().await;
    let (_, other_ca, other_fingerprint) = host().await;
    identify(address, Trust::CaPem(ca)).await.unwrap();
    identify(address, Trust::Fingerprint(fingerprint))
        .await
        .unwrap();
    for wrong in [
        Trust::CaPem(other_ca),
        Trust::Fingerprint(other_fingerprint),
        Trust::System,
    ] {
        let error = identify(address, wrong.clone()).await.unwrap_err();
        assert!(
            matches!(error, Error::Unreachable { .. }),
            "{wrong:?}: {error}"
        );
    }
    for nonsense in [
        Trust::CaPem("nothing".into()),
        Trust::Fingerprint("12".into()),
    ] {
        assert!(matches!(
            identify(address, nonsense).await.unwrap_err(),
            Error::Settings { .. }
        ));
    }
}
