//! nginx and our server, with the same files.

use crate::bench::Bench;
use crate::ours::{self, HTTP_PORT, Site};
use crate::report::OURS;
use crate::subject::{Port, Subject};
use anyhow::{Result, bail};
use kaltstart_tests::pair::SERVER;
use kaltstart_tests::process::run;
use kaltstart_tests::signing::sign;
use kaltstart_tests::wait::secs;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

pub(super) const NGINX: &str = "nginx";

/// Size of the large file; it stays in the page cache.
pub(super) const LARGE_BYTES: u64 = 512 << 20;
/// Size of the small file: a boot script or a loader's configuration.
pub(super) const SMALL_BYTES: u64 = 4 << 10;

/// Port of nginx; beside ours, so that both have the same connection's cost.
const NGINX_PORTS: (u16, u16) = (8180, 8543);
/// Port of our TLS when none is configured.
const TLS_PORT: u16 = 8443;

/// The files, in the places where both servers have them.
pub(super) struct Files {
    dir: PathBuf,
    digest: String,
    image_key: String,
}

/// Where a server has the files.
pub(super) struct Place {
    pub(super) plain: u16,
    pub(super) tls: u16,
    pub(super) large: String,
    pub(super) small: String,
}

impl Files {
    /// Writes them: an image for the large one, a loader for the small one.
    pub(super) fn write(bench: &Bench) -> Result<Self> {
        let dir = bench.dir().join("http");
        let image = dir.join("images/large");
        fs::create_dir_all(&image)?;
        fs::create_dir_all(dir.join("loaders"))?;
        let block: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
        fs::write(image.join("large.tar"), &block)?;
        let digest: String = Sha256::digest(&block).iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = format!("sha256:{digest}");
        let manifest = json!({
            "schema": 1, "name": "large", "version": "1", "digest": digest, "size": LARGE_BYTES,
            "unpacked_size": LARGE_BYTES, "format": "tar", "compression": "none", "file": "large.tar",
            "min_disk": LARGE_BYTES,
            "boot": {"kernel": "/vmlinuz", "initrd": "/initrd.img", "cmdline": "", "efi": [], "bios": null},
        });
        fs::write(image.join("manifest.json"), manifest.to_string())?;
        let image_key = sign(&image)?;
        fs::write(dir.join("loaders/undionly.kpxe"), &block[..SMALL_BYTES as usize])?;
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
        openssl.args(["-days", "30", "-subj", "/CN=bench", "-keyout"]).arg(dir.join("key.pem"));
        run(openssl.arg("-out").arg(dir.join("cert.pem")), secs(30))?;
        Ok(Self { dir, digest, image_key })
    }

    /// Where `subject` has them.
    pub(super) fn place(&self, subject: &str) -> Place {
        if subject == OURS {
            let large = format!("/images/{}", self.digest);
            return Place {
                plain: HTTP_PORT,
                tls: TLS_PORT,
                large,
                small: "/boot/files/undionly.kpxe".into(),
            };
        }
        let (plain, tls) = NGINX_PORTS;
        Place { plain, tls, large: "/images/large/large.tar".into(), small: "/loaders/undionly.kpxe".into() }
    }

    /// Starts `subject`.
    pub(super) fn start(&self, bench: &Bench, subject: &str) -> Result<Subject> {
        match subject {
            OURS => {
                let (loaders, images) = (self.dir.join("loaders"), self.dir.join("images"));
                let site = Site {
                    loaders: &loaders,
                    images: &images,
                    image_key: Some(&self.image_key),
                    ..Site::new(bench)
                };
                ours::start(bench, &site, Port::Tcp(HTTP_PORT))
            }
            NGINX => self.nginx(bench),
            other => bail!("no HTTP server {other}"),
        }
    }

    fn nginx(&self, bench: &Bench) -> Result<Subject> {
        let (plain, tls) = NGINX_PORTS;
        let dir = self.dir.display();
        let config = format!(
            "daemon off; user root; worker_processes 2; pid {dir}/nginx.pid;\n\
             error_log stderr; events {{ worker_connections 1024; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 10000000;\n\
             client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;\n\
             fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             server {{ listen {SERVER}:{plain}; listen {SERVER}:{tls} ssl; root {dir};\n\
             ssl_certificate {dir}/cert.pem; ssl_certificate_key {dir}/key.pem; ssl_protocols TLSv1.3; }} }}\n"
        );
        let file = self.dir.join("nginx.conf");
        fs::write(&file, config)?;
        let mut command = bench.peer("usr/sbin/nginx");
        command.arg("-p").arg(&self.dir).arg("-c").arg(file).args(["-e", "stderr"]);
        Subject::start(NGINX, &command, &bench.log(NGINX), Port::Tcp(plain))
    }
}
