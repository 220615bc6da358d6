//! TLS to a server, and what the operator does about each of its failures.

use std::{net::TcpStream, path::Path, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use super::failure::Failure;
use crate::config::{Host, Target, Tls};

pub(super) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// Where systems keep the certificates of their authorities.
const SYSTEM_CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Encrypts a connection whose server has agreed to it.
pub(super) fn wrap(mut tcp: TcpStream, host: &Host, target: &Target) -> Result<TlsStream, Failure> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::Settings(error.to_string()))?;
    let config = if target.tls == Tls::VerifyFull {
        let roots = roots(target.root_certificates.as_deref())?;
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        let verifier = Arc::new(AnyCertificate(provider));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    let name = ServerName::try_from(host.name.clone())
        .map_err(|_| Failure::Settings("its host name cannot be in a certificate".into()))?;
    let mut connection = ClientConnection::new(Arc::new(config), name)
        .map_err(|error| Failure::Settings(error.to_string()))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp).map_err(|error| {
            let tls = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
            let sentence = tls.map(sentence);
            sentence.map_or_else(|| Failure::from(error), Failure::Settings)
        })?;
    }
    Ok(StreamOwned::new(connection, tcp))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, Failure> {
    let file = match file {
        Some(file) => file,
        None => SYSTEM_CERTIFICATES.iter().map(Path::new).find(|path| path.exists()).ok_or_else(
            || {
                Failure::Settings(
                    "this machine has no certificates of authorities: install \
                         ca-certificates, or add sslrootcert=/path to DATABASE_URL"
                        .to_owned(),
                )
            },
        )?,
    };
    let named = |problem: String| Failure::Settings(format!("{}: {problem}", file.display()));
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|error| named(format!("it cannot be read: {error}")))?;
    for certificate in certificates {
        let certificate =
            certificate.map_err(|error| named(format!("it is not a PEM file: {error}")))?;
        // A certificate that nothing understands signs nothing.
        let _ = roots.add(certificate);
    }
    if roots.is_empty() {
        return Err(named("it has no certificate".to_owned()));
    }
    Ok(roots)
}

fn sentence(error: &Error) -> String {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match error {
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "its certificate has expired: renew it, or set the clock here".to_owned()
        }
        Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "its certificate is not valid yet: set the clock here".to_owned()
        }
        Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "its certificate is for another host name: use that name in DATABASE_URL".to_owned()
        }
        Error::InvalidCertificate(UnknownIssuer) => "its certificate is signed by an unknown \
                authority: add sslrootcert=/path of that authority's certificate to DATABASE_URL"
            .to_owned(),
        Error::InvalidCertificate(other) if format!("{other:?}").contains("CaUsedAsEnd") => {
            "its certificate is an authority's own: let that authority sign another \
                 certificate for the server, and name the authority's in sslrootcert"
                .to_owned()
        }
        other => format!("TLS failed: {other}"),
    }
}

/// sslmode=require: encrypted, and the server may be any.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
