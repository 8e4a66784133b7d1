//! The server's life: open, bind, serve, drain.

use crate::app::App;
use crate::clock;
use crate::config::{self, Config, Database, Log, LogFormat};
use crate::confinement::{self, Confinement, Gate};
use crate::data_dir;
use crate::doors::{Dhcp6Door, DhcpDoor, SyslogDoor, TftpCounter, TftpDoor, dhcp_service};
use crate::exit::Exit;
use crate::http::listen::{self, Routes};
use crate::net::interfaces::Interfaces;
use crate::net::{self, dhcp, dhcp6, tftp};
use crate::sockets::Sockets;
use crate::store::{self, Changed, Store};
use crate::tls::{self, Tls};
use crate::trace;
use anyhow::{Context, Result};
use kaltstart_core::dhcp::lease::LeaseTable;
use kaltstart_core::dhcp::role::Mode;
use kaltstart_core::trace::What;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often overdue jobs are looked for.
const DEADLINES_EVERY: Duration = Duration::from_secs(1);

/// How often the end of the audit log is noted: what was recorded since can be taken off without being found.
const END_OF_LOG_EVERY: Duration = Duration::from_secs(1);

/// How often the server's certificate is looked at.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);

/// Bytes by which a header of IPv6 is longer than one of IPv4: a block must fit the same frame.
const LONGER_HEADER: u16 = 20;

/// How long open requests may go on after the server was told to stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Runs the server until SIGINT or SIGTERM.
#[must_use]
pub fn run(config: Config) -> Exit {
    log_to_stderr(&config.log);
    if let Err(error) = confinement::prepare() {
        tracing::error!("{error:#}");
        return Exit::Failed;
    }
    match on_threads(|gate| serve(config, gate)) {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!("{error:#}");
            Exit::Failed
        }
    }
}

/// Runs a server on threads that do nothing before it has opened their gate.
pub(crate) fn on_threads<F: Future<Output = Result<()>>>(server: impl FnOnce(Arc<Gate>) -> F) -> Result<()> {
    let gate = Arc::new(Gate::default());
    let entered = gate.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(move || entered.enter())
        .build()
        .context("cannot start threads")?;
    let outcome = runtime.block_on(server(gate.clone()));
    // Whatever went wrong: threads that still wait could not be ended.
    gate.open(None);
    outcome
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

async fn serve(config: Config, gate: Arc<Gate>) -> Result<()> {
    data_dir::make(&config.data_dir)?;
    // Held until the end of the process, however it ends.
    let _alone = data_dir::lock(&config.data_dir)?;
    let sockets = Sockets::bind(&config).await?;
    // Before anybody is answered: who is answered may tell it to stop at once.
    let told = told_to_stop()?;
    serve_on(sockets, config, &gate, told).await
}

/// Serves on what is bound until `told` ends, which is first polled when all doors are open. The data directory is
/// there, and nobody else's.
pub(crate) async fn serve_on(
    sockets: Sockets,
    config: Config,
    gate: &Gate,
    told: impl Future<Output = ()>,
) -> Result<()> {
    let wires = config.dhcp.iter().filter(|dhcp| dhcp.mode != Mode::Off).map(|dhcp| &dhcp.interface);
    let wires = wires.chain(config.dhcp6.iter().map(|dhcp6| &dhcp6.interface));
    let interfaces = Interfaces::now(wires.filter_map(Option::as_deref));
    // Its password may be root's alone.
    let database = config.database.as_ref().map(Database::server).transpose()?;
    let ports = database.as_ref().map_or_else(Vec::new, store::Server::ports);
    gate.open(Some(Confinement::begin(&config, ports)?));
    let store = match &database {
        // Another name at each start: what it wrote before is read with all the rest.
        Some(server) => Store::connect(server, &format!("kaltstart {}", clock::uuid()))?,
        None => Store::open(&config.data_dir)?,
    };
    data_dir::ensure_keys(&config.data_dir, &store)?;
    let admin = data_dir::admin_token(&config.data_dir)?;
    let tls = Tls::open(tls::dir(&config.data_dir), config.names(), clock::now())
        .context("no certificate for the server")?;
    let app = Arc::new(App::new(config, store, admin, Arc::new(tls)).await?);
    app.started().await?;
    for missing in app.config.missing() {
        tracing::warn!("{missing}");
    }
    let stop = CancellationToken::new();
    let mut doors = JoinSet::new();
    open_doors(&app, sockets, &stop, &mut doors).await?;
    let (renewed, stopped) = (app.tls.clone(), stop.clone());
    doors.spawn(async move {
        stopped.run_until_cancelled(renew_certificates(&renewed)).await;
    });
    let (watched, stopped) = (app.clone(), stop.clone());
    doors.spawn(async move {
        stopped.run_until_cancelled(watch_deadlines(watched)).await;
    });
    let (recorded, stopped) = (app.clone(), stop.clone());
    doors.spawn(async move { write_trace(&recorded, stopped).await });
    let (noted, stopped) = (app.clone(), stop.clone());
    doors.spawn(async move { note_end_of_log(&noted, stopped).await });
    let authority = app.tls.authority();
    let (http, https) = (app.config.http.listen, app.config.http.tls_listen());
    tracing::info!(%http, %https, %authority, data = %app.config.data_dir.display(), "serving");
    let outcome = tokio::select! {
        () = told => Ok(()),
        name = interfaces.made_anew() => Err(anyhow::anyhow!(
            "the interface {name} was made anew, and the sockets are bound to the old one; the server must be \
             started again (the systemd unit does)"
        )),
        ended = doors.join_next() => {
            Err(anyhow::anyhow!("a service ended by itself: {ended:?}; the log says why"))
        }
    };
    tracing::info!("stopping");
    stop.cancel();
    if tokio::time::timeout(DRAIN_MAX, async { while doors.join_next().await.is_some() {} }).await.is_err() {
        tracing::info!("open requests were cut off");
    }
    outcome
}

/// Answers HTTP, TFTP and DHCP until `stop`.
async fn open_doors(
    app: &Arc<App>,
    sockets: Sockets,
    stop: &CancellationToken,
    doors: &mut JoinSet<()>,
) -> Result<()> {
    let Sockets { http, https, tftp, dhcp, dhcp6, pinger, watchers, advertisers, syslog } = sockets;
    let routes = Routes::new(app.clone());
    let acceptor = TlsAcceptor::from(Arc::new(app.tls.server_config()?));
    let plain = http.into_iter().map(|listener| (listener, None));
    for (listener, acceptor) in plain.chain([(https, Some(acceptor))]) {
        doors.spawn(listen::serve(listener, acceptor, routes.clone(), stop.clone()));
    }
    for socket in tftp {
        serve_tftp(app, socket, stop, doors)?;
    }
    let dhcp = serve_dhcp(app, dhcp, pinger, watchers, stop, doors).await?;
    let dhcp6 = if dhcp6.is_empty() { None } else { Some(serve_dhcp6(app, dhcp6, stop, doors).await?) };
    if app.store.is_shared() {
        let (app, stop) = (app.clone(), stop.clone());
        doors.spawn_blocking(move || {
            let learn = |Changed { leases, leases6, is_back }| {
                if is_back {
                    dhcp.may_store();
                }
                dhcp.learn(leases);
                if let Some(dhcp6) = &dhcp6 {
                    if is_back {
                        dhcp6.may_store();
                    }
                    dhcp6.learn(leases6);
                }
            };
            app.store.follow(learn, &stop);
        });
    }
    for advertiser in advertisers {
        let stop = stop.clone();
        doors.spawn(async move { advertiser.serve(stop).await });
    }
    if let Some(socket) = syslog {
        doors.spawn(net::syslog::serve(socket, SyslogDoor(app.clone()), stop.clone()));
    }
    Ok(())
}

fn serve_tftp(
    app: &Arc<App>,
    socket: UdpSocket,
    stop: &CancellationToken,
    doors: &mut JoinSet<()>,
) -> Result<()> {
    let dir = &app.config.boot.loaders;
    let loaders = tftp::Directory::new(dir).with_context(|| format!("boot.loaders {}", dir.display()))?;
    let mut transfer = app.config.tftp.transfer_limits();
    if socket.local_addr()?.is_ipv6() {
        transfer.blksize_max =
            transfer.blksize_max.saturating_sub(LONGER_HEADER).max(*tftp::BLKSIZE_RANGE.start());
    }
    let limits = tftp::Limits { transfer, ..tftp::Limits::default() };
    let door = TftpDoor { app: app.clone(), loaders };
    let (counter, stop) = (TftpCounter(app.clone()), stop.clone());
    doors.spawn(async move {
        if let Err(error) = tftp::serve(socket, door, counter, limits, stop).await {
            tracing::error!(%error, "TFTP");
        }
    });
    Ok(())
}

async fn serve_dhcp(
    app: &Arc<App>,
    listeners: Vec<dhcp::Listener>,
    pinger: Option<dhcp::Pinger>,
    watchers: Vec<dhcp::Watcher>,
    stop: &CancellationToken,
    doors: &mut JoinSet<()>,
) -> Result<Arc<dhcp::Service<DhcpDoor>>> {
    let pinger = pinger.map(Arc::new);
    let ping = pinger.clone().map(|pinger| pinger as Arc<dyn dhcp::Ping>);
    let service = dhcp_service(app, DhcpDoor::new(app.clone()), ping).await?;
    // Threads of their own: they sleep in their sockets.
    for listener in listeners {
        let (service, stop) = (service.clone(), stop.clone());
        doors.spawn_blocking(move || service.serve(listener, &stop));
    }
    if let Some(pinger) = pinger {
        let (service, stop) = (service.clone(), stop.clone());
        doors.spawn_blocking(move || service.serve_checks(&pinger, &stop));
    }
    for watcher in watchers {
        let (app, stop) = (app.clone(), stop.clone());
        doors.spawn_blocking(move || {
            let note = |mac, offer| {
                // What strangers are offered is nobody's concern here.
                if app.store.index().get(mac).is_some() {
                    app.trace.note(mac, What::ForeignOffer(offer));
                }
            };
            watcher.serve(&app.watches, note, &stop);
        });
    }
    Ok(service)
}

async fn serve_dhcp6(
    app: &Arc<App>,
    listeners: Vec<dhcp6::Listener>,
    stop: &CancellationToken,
    doors: &mut JoinSet<()>,
) -> Result<Arc<dhcp6::Service<Dhcp6Door>>> {
    let mut resumed = LeaseTable::resume(app.store.leases6()?, clock::now());
    // As for IPv4.
    if !app.store.is_shared() {
        app.store.put_leases6(resumed.writes).await?;
        resumed.table.is_stored();
    }
    let (door, subnets, duid) = (Dhcp6Door::new(app.clone()), app.config.subnets6(), app.store.duid()?);
    let service = dhcp6::Service::new(door, subnets, duid, resumed.table, resumed.now);
    app.metrics.watch_dhcp6(service.clone());
    for listener in listeners {
        let (service, stop) = (service.clone(), stop.clone());
        doors.spawn_blocking(move || service.serve(&listener, &stop));
    }
    Ok(service)
}

/// Listens for SIGINT, SIGTERM and SIGHUP from now on; the future ends with the first SIGINT or SIGTERM.
fn told_to_stop() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Administrators send it to have a configuration read anew; unheard, it would end the process.
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => return,
                _ = terminate.recv() => return,
                _ = hangup.recv() => tracing::warn!(
                    "SIGHUP: the configuration is read at the start alone; restart the server to have it read anew"
                ),
            }
        }
    })
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

/// Notes where the audit log ends, the last time after the server was told to stop.
async fn note_end_of_log(app: &Arc<App>, stop: CancellationToken) {
    let mut running = true;
    while running {
        running = stop.run_until_cancelled(tokio::time::sleep(END_OF_LOG_EVERY)).await.is_some();
        let noted = app.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || noted.note_end_of_log()).await {
            tracing::error!(%error, "the end of the audit log");
        }
    }
}

/// Renews the server's certificate in time, and takes up what `kaltstart tls rotate` wrote.
async fn renew_certificates(tls: &Tls) {
    let mut ticks = tokio::time::interval(CERTIFICATES_EVERY);
    loop {
        ticks.tick().await;
        match tls.refresh(clock::now()) {
            Ok(false) => {}
            Ok(true) => {
                let (authority, server) = (tls.authority(), tls.server().fingerprint);
                tracing::info!(%authority, %server, "new certificate");
            }
            Err(error) => {
                tracing::error!("the certificate cannot be renewed: {:#}", anyhow::Error::from(error));
            }
        }
    }
}

/// Lets overdue jobs hear of it.
async fn watch_deadlines(app: Arc<App>) {
    let mut ticks = tokio::time::interval(DEADLINES_EVERY);
    loop {
        ticks.tick().await;
        app.look_at_deadlines().await;
    }
}
