//! What concerns the process as such: its log, and the signals that ask it to end.

use tracing_subscriber::EnvFilter;

use crate::args::Command;

/// Sends the log to standard error. `REPRISE_LOG` sets what is logged, such as `info` or `agent=debug,warn`.
pub(crate) fn log_to_stderr(command: &Command) {
    let level = if command.is_service() {
        "info,fjall=warn,lsm_tree=warn"
    } else {
        "warn"
    };
    let filter = EnvFilter::try_from_env("REPRISE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

/// Returns once someone asks the process to end: Ctrl-C, or SIGTERM where there are signals.
pub(crate) async fn asked_to_end() {
    let interrupt = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = interrupt => {}
        () = terminate() => {}
    }
}

#[cfg(unix)]
async fn terminate() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut stream) => {
            stream.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn terminate() {
    std::future::pending().await
}
