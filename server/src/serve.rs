//! The server's life: open, bind, serve, drain.

use crate::app::App;
use crate::clock;
use crate::config::{self, Config, Log, LogFormat};
use crate::doors::{DhcpDoor, TftpCounter, TftpDoor};
use crate::exit::Exit;
use crate::http::listen::{self, Routes};
use crate::net::{dhcp, ra, tftp};
use crate::store::{Key, Store};
use crate::trace;
use anyhow::{Context, Result};
use kaltstart_core::dhcp::lease::LeaseTable;
use kaltstart_core::dhcp::role::Mode;
use kaltstart_core::lifecycle::event::Event;
use kaltstart_protocol::secret::Secret;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

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
    // Checked with the configuration.
    let filter = config::log_filter(&log.level).unwrap_or_default();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}

async fn serve(config: Config) -> Result<()> {
    // What is remembered of the machines is for the server's own user.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("cannot make data_dir {}", config.data_dir.display()))?;
    // Held until the end of the process, however it ends.
    let _alone = lock(&config.data_dir)?;
    let store = Store::open(&config.data_dir)?;
    let admin = admin_token(&config.data_dir)?;
    let app = Arc::new(App::new(config, store, admin).await?);
    for node in app.store.due(None)? {
        app.apply(Key::Id(&node), &Event::ServerStarted).await?;
    }
    for (key, file) in [("kernel", &app.config.boot.kernel), ("ramdisk", &app.config.boot.ramdisk)] {
        if let Err(error) = fs::File::open(file) {
            tracing::warn!(file = %file.display(), %error, "boot.{key} cannot be read: no machine can start");
        }
    }
    let stop = CancellationToken::new();
    let mut doors = JoinSet::new();
    open_http(&app, &stop, &mut doors).await?;
    open_tftp(&app, &stop, &mut doors)?;
    open_dhcp(&app, &stop, &mut doors).await?;
    let (watched, stopped) = (app.clone(), stop.clone());
    doors.spawn(async move {
        stopped.run_until_cancelled(watch_deadlines(watched)).await;
    });
    let (recorded, stopped) = (app.clone(), stop.clone());
    doors.spawn(async move { write_trace(&recorded, stopped).await });
    tracing::info!(http = %app.config.http.listen, data = %app.config.data_dir.display(), "serving");
    tokio::select! {
        told = told_to_stop() => told?,
        ended = doors.join_next() => {
            anyhow::bail!("a service ended by itself: {ended:?}; the log says why");
        }
    }
    tracing::info!("stopping");
    stop.cancel();
    if tokio::time::timeout(DRAIN_MAX, async { while doors.join_next().await.is_some() {} }).await.is_err() {
        tracing::info!("open requests were cut off");
    }
    Ok(())
}

async fn open_http(app: &Arc<App>, stop: &CancellationToken, doors: &mut JoinSet<()>) -> Result<()> {
    let listen = app.config.http.listen;
    let listener = TcpListener::bind(listen).await.with_context(|| {
        format!("cannot listen on {listen} (http.listen): is the address ours, the port free?")
    })?;
    doors.spawn(listen::serve(listener, Routes::new(app.clone()), stop.clone()));
    Ok(())
}

fn open_tftp(app: &Arc<App>, stop: &CancellationToken, doors: &mut JoinSet<()>) -> Result<()> {
    let listen = app.config.tftp.listen;
    let socket = tftp::bind(listen).with_context(|| {
        format!("cannot listen on {listen} (tftp.listen): is the address ours, the port free, are we root?")
    })?;
    let dir = &app.config.boot.loaders;
    let loaders = tftp::Directory::new(dir).with_context(|| format!("boot.loaders {}", dir.display()))?;
    let door = TftpDoor { app: app.clone(), loaders };
    let (counter, stop) = (TftpCounter(app.clone()), stop.clone());
    doors.spawn(async move {
        if let Err(error) = tftp::serve(socket, door, counter, tftp::Limits::default(), stop).await {
            tracing::error!(%error, "TFTP");
        }
    });
    Ok(())
}

async fn open_dhcp(app: &Arc<App>, stop: &CancellationToken, doors: &mut JoinSet<()>) -> Result<()> {
    let base = app.config.http_base();
    let subnets = app.config.dhcp.iter().map(|subnet| subnet.decided_upon(&base)).collect();
    let resumed = LeaseTable::resume(app.store.leases()?, clock::now());
    app.store.put_leases(resumed.writes).await?;
    let service = dhcp::Service::new(DhcpDoor::new(app.clone()), subnets, resumed.table, resumed.now);
    app.metrics.watch_dhcp(service.stats().clone());
    for subnet in app.config.dhcp.iter().filter(|subnet| subnet.mode != Mode::Off) {
        let name = &subnet.interface;
        let listener = dhcp::Listener::open(name, subnet.address).with_context(|| {
            format!("cannot serve DHCP on {name}: does it exist, is UDP port 67 free, are we root?")
        })?;
        let (service, stopped) = (service.clone(), stop.clone());
        // A thread of its own: it sleeps in the socket.
        doors.spawn_blocking(move || service.serve(listener, &stopped));
        if subnet.answer_router_solicitations {
            match ra::Advertiser::open(name) {
                Ok(advertiser) => {
                    let stopped = stop.clone();
                    doors.spawn(async move { advertiser.serve(stopped).await });
                }
                // Boot loaders only wait longer without it.
                Err(error) => tracing::warn!(interface = name, %error, "no router advertisements"),
            }
        }
    }
    Ok(())
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

/// Writes what the doors saw to its file, the last of it after the server was told to stop.
async fn write_trace(app: &Arc<App>, stop: CancellationToken) {
    let mut running = true;
    while running {
        running = stop.run_until_cancelled(tokio::time::sleep(trace::FLUSH_EVERY)).await.is_some();
        let recorded = app.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || recorded.trace.flush()).await {
            tracing::error!(%error, "recent past of machines");
        }
    }
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

/// Makes sure that no other server works on the same data: two lease tables would promise one
/// address twice.
fn lock(dir: &Path) -> Result<Flock<fs::File>> {
    let path = dir.join("lock");
    let file = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => {
            anyhow::anyhow!("another server uses data_dir {}; stop it first", dir.display())
        }
        error => anyhow::anyhow!("cannot lock {}: {error}", path.display()),
    })
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
