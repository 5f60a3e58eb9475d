//! Somebody between driver and host, who forwards, cuts or changes what passes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the proxy does besides forwarding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mischief {
    None,
    /// Changes a byte of every sealed answer.
    FlipAnswer,
    /// Changes a byte of every sealed request.
    FlipRequest,
    /// Answers sealed requests itself, with an envelope in plain text.
    AnswerInPlain,
}

/// A running proxy; it ends with the test's runtime.
pub(crate) struct Proxy {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    cut: watch::Sender<usize>,
}

const SEALED: &[u8] = b"\tContent-Type: application/octet-stream\r\n";

impl Proxy {
    pub(crate) async fn start(target: SocketAddr, mischief: Mischief) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has a free port");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let (cut, cuts) = watch::channel(0);
        let proxy = Self {
            address,
            connections: Arc::clone(&connections),
            cut,
        };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let mut cuts = cuts.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else {
                        return;
                    };
                    cuts.mark_unchanged();
                    tokio::select! {
                        () = forward(client, server, mischief) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/wsman", self.address)
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Returns how many connections were made.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, mischief: Mischief) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &mut up[..length];
                if mischief == Mischief::AnswerInPlain && at(bytes).is_some() {
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/soap+xml;charset=UTF-8\r\n\
                        Content-Length: 11\r\n\r\n<Envelope/>";
                    if client.write_all(answer).await.is_err() {
                        return;
                    }
                    continue;
                }
                if mischief == Mischief::FlipRequest {
                    flip(bytes);
                }
                if server.write_all(bytes).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &mut down[..length];
                if mischief == Mischief::FlipAnswer {
                    flip(bytes);
                }
                if client.write_all(bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Where the data of a sealed message begins.
fn at(bytes: &[u8]) -> Option<usize> {
    let found = bytes
        .windows(SEALED.len())
        .position(|window| window == SEALED)?;
    Some(found + SEALED.len())
}

/// Changes a byte behind the signature, where there is one in this piece.
fn flip(bytes: &mut [u8]) {
    if let Some(at) = at(bytes)
        && let Some(byte) = bytes.get_mut(at + 30)
    {
        *byte ^= 0x20;
    }
}

/// A machine in between that ends TLS and starts it anew.
pub(crate) struct Between {
    pub(crate) url: String,
    pub(crate) fingerprint: String,
}

/// Starts one before `target`, whose certificate `ca` signed.
pub(crate) async fn tls(target: SocketAddr, ca: &str, dir: &std::path::Path) -> Between {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

    let pair = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
        .expect("a certificate can be made");
    let (cert, key) = (dir.join("between.pem"), dir.join("between.key"));
    std::fs::write(&cert, pair.cert.pem()).expect("there is room");
    std::fs::write(&key, pair.signing_key.serialize_pem()).expect("there is room");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_no_client_auth()
        .with_single_cert(
            vec![pair.cert.der().clone()],
            PrivateKeyDer::from_pem_file(&key).expect("it was just written"),
        )
        .expect("key and certificate fit");
    let mut roots = rustls::RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.as_bytes()).expect("it is PEM");
    roots.add(ca).expect("it is a CA");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("loopback has a free port");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, connector) = (acceptor.clone(), connector.clone());
            tokio::spawn(async move {
                let mut down = acceptor.accept(stream).await.ok()?;
                let up = TcpStream::connect(target).await.ok()?;
                let name = ServerName::try_from("localhost").ok()?;
                let mut up = connector.connect(name, up).await.ok()?;
                tokio::io::copy_bidirectional(&mut down, &mut up).await.ok()
            });
        }
    });
    let digest = ring::digest::digest(&ring::digest::SHA256, pair.cert.der());
    Between {
        url: format!("https://{address}/wsman"),
        fingerprint: digest
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    }
}
