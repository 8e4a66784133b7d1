//! The server's life: open, bind, serve, drain.

use crate::app::App;
use crate::clock;
use crate::config::{Config, Log, LogFormat};
use crate::exit::Exit;
use crate::http;
use crate::images::Catalog;
use crate::metrics::Metrics;
use crate::store::{Key, Store};
use anyhow::{Context, Result};
use kaltstart_core::lifecycle::event::Event;
use kaltstart_protocol::secret::Secret;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// How often overdue jobs are looked for.
const DEADLINES_EVERY: Duration = Duration::from_secs(1);

/// How long open requests may go on after the server was told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs the server until SIGINT or SIGTERM.
#[must_use]
pub fn run(config: Config) -> Exit {
    log_to_stderr(&config.log);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start threads");
            return Exit::Failed;
        }
    };
    match runtime.block_on(serve(config)) {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{error:#}");
            Exit::Failed
        }
    }
}

fn log_to_stderr(log: &Log) {
    let filter = tracing_subscriber::EnvFilter::new(&log.level);
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

async fn serve(config: Config) -> Result<()> {
    fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make data_dir {}", config.data_dir.display()))?;
    let app = Arc::new(App {
        store: Store::open(&config.data_dir)?,
        images: Catalog::new(config.images.dir.clone()),
        metrics: Metrics::default(),
        admin: admin_token(&config.data_dir)?,
        config,
    });
    for node in &app.config.node {
        app.declare(node).await.with_context(|| format!("cannot declare node {:?}", node.name))?;
    }
    for node in app.store.due(None)? {
        app.apply(Key::Id(&node), &Event::ServerStarted).await?;
    }
    let (stop, stopped) = watch::channel(false);
    let listen = app.config.http.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen} (http.listen): is the address ours, the port free?")
    })?;
    tokio::spawn(watch_deadlines(app.clone()));
    let until = wait_for(stopped.clone());
    let served = tokio::spawn(
        axum::serve(listener, http::router(app.clone())).with_graceful_shutdown(until).into_future(),
    );
    tracing::info!(http = %listen, data = %app.config.data_dir.display(), "serving");
    told_to_stop().await?;
    tracing::info!("stopping");
    stop.send_replace(true);
    if tokio::time::timeout(DRAIN_MAX, served).await.is_err() {
        tracing::info!("open requests were cut off");
    }
    Ok(())
}

async fn wait_for(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn told_to_stop() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Lets overdue jobs hear of it.
async fn watch_deadlines(app: Arc<App>) {
    let mut ticks = tokio::time::interval(DEADLINES_EVERY);
    loop {
        ticks.tick().await;
        let due: Vec<_> = match app.store.due(Some(clock::now())) {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "deadlines");
                continue;
            }
        };
        for node in due {
            if let Err(error) = app.apply(Key::Id(&node), &Event::DeadlinePassed).await {
                tracing::error!(%error, node = node.as_str(), "deadline");
            }
        }
    }
}

/// Reads the administrator's token; makes it at first start, readable by the owner alone.
fn admin_token(dir: &Path) -> Result<Secret> {
    let path = dir.join("admin.token");
    let context = || format!("admin token {}", path.display());
    match fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim().to_owned())),
        Ok(_) => anyhow::bail!("{} is empty: remove it, and a new one is made", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(context),
    }
    let token = clock::token("kst_");
    // Written aside and renamed: a crash in between leaves no empty token.
    let temporary = dir.join("admin.token.new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(context)?;
    writeln!(file, "{}", token.expose()).and_then(|()| file.sync_all()).with_context(context)?;
    fs::rename(&temporary, &path).with_context(context)?;
    tracing::info!(file = %path.display(), "made a token for administrators");
    Ok(token)
}
