//! The log-in, in whatever form.

use std::sync::Arc;

use hyperv::{CimSession, Endpoint, Error, ErrorKind, Host};

use super::{Bed, credentials};

pub(super) async fn is_asked_for(bed: Arc<Bed>) {
    let Some(known) = &bed.endpoint.credentials else {
        // An account goes to no host that asks for none: it may be another machine.
        let endpoint = Endpoint {
            credentials: Some(credentials(("backup", "secret"))),
            ..bed.endpoint.clone()
        };
        let error = Host::new(&endpoint).unwrap().facts().await.unwrap_err();
        assert!(matches!(error, Error::NotAsked { .. }), "{error:?}");
        return;
    };
    for wrong in [
        None,
        Some(credentials((&known.user, "wrong"))),
        Some(credentials(("nobody", super::PASSWORD))),
    ] {
        let user = wrong.as_ref().map(|wrong| wrong.user.clone());
        let endpoint = Endpoint {
            credentials: wrong,
            ..bed.endpoint.clone()
        };
        let error = Host::new(&endpoint).unwrap().facts().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        let text = error.to_string();
        // Without an account there is nothing to log in with.
        let told = user.as_deref().unwrap_or("log in");
        assert!(text.contains(told), "{text}");
        assert!(!text.contains(super::PASSWORD), "{text}");
    }
    // The refusals above did not spoil anything for those who may.
    bed.host().facts().await.unwrap();
}

pub(super) async fn tells_who_the_service_is(bed: Arc<Bed>) {
    let session = CimSession::new(&bed.endpoint).unwrap();
    let identity = session.identify().await.unwrap();
    assert_eq!(identity.vendor, "Microsoft Corporation");
    assert!(identity.version.contains("OS: 10.0."), "{identity:?}");
}
