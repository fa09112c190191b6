//! What a certificate has to be in its place, whoever signed it.

use x0t_model::{SpiffeId, TrustDomain, UnixTime};

use super::Profile;
use super::certificate::Certificate;
use super::error::{Place, Skew, ValidationError};
use super::extensions::Purpose;
use super::general_name::GeneralName;
use super::name::DottedOid;
use super::report::{CheckKind, Report};

type Checked = Result<(), ValidationError>;

/// What a certificate is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) profile: Profile<'a>,
    pub(crate) now: UnixTime,
    pub(crate) peer_time: Option<UnixTime>,
}

impl Rules<'_> {
    /// Holds the leaf against every rule that needs no other certificate, and notes each. The first error is handed on.
    pub(crate) fn check_leaf(&self, leaf: &Certificate<'_>, report: &mut Report) -> Checked {
        let place = Place::Leaf;
        let profile = match self.profile {
            Profile::Svid => [
                (CheckKind::BasicConstraints, leaf_basic_constraints(leaf)),
                (CheckKind::KeyUsage, svid_key_usage(leaf)),
                (CheckKind::ExtendedKeyUsage, svid_extended_key_usage(leaf)),
            ],
            Profile::Web { purpose, .. } => [
                (CheckKind::BasicConstraints, leaf_basic_constraints(leaf)),
                (CheckKind::KeyUsage, web_key_usage(leaf)),
                (CheckKind::ExtendedKeyUsage, self.web_extended_key_usage(leaf, purpose)),
            ],
        };
        self.note(leaf, place, profile, report)
    }

    /// Holds a certificate that should sign for others against the rules, and notes each.
    pub(crate) fn check_issuer(&self, issuer: &Certificate<'_>, place: Place, report: &mut Report) -> Checked {
        let own = [
            (CheckKind::BasicConstraints, self.issuer_basic_constraints(issuer, place)),
            (CheckKind::KeyUsage, self.issuer_key_usage(issuer, place)),
            (CheckKind::ExtendedKeyUsage, self.issuer_extended_key_usage(issuer, place)),
        ];
        self.note(issuer, place, own, report)
    }

    /// Notes the rules for every certificate, and those of its place.
    fn note(
        &self,
        certificate: &Certificate<'_>,
        place: Place,
        own: [(CheckKind, Checked); 3],
        report: &mut Report,
    ) -> Checked {
        let common = [
            (CheckKind::Serial, serial(certificate, place)),
            (CheckKind::Names, self.names(certificate, place)),
            (CheckKind::Validity, self.validity(certificate, place)),
            (CheckKind::Algorithm, algorithm(certificate, place)),
            (CheckKind::Key, key(certificate, place)),
            (CheckKind::KeyIdentifiers, self.key_identifiers(certificate, place)),
            (CheckKind::CriticalExtensions, critical_extensions(certificate, place)),
        ];
        let mut first = Ok(());
        for (kind, result) in common.into_iter().chain(own) {
            first = first.and(report.note(kind, Some(place), result));
        }
        first
    }

    fn names(&self, certificate: &Certificate<'_>, place: Place) -> Checked {
        let wrong = |fault| Err(ValidationError::Name { place, fault });
        if certificate.issuer().is_empty() {
            return wrong("the issuer's name is empty");
        }
        if place != Place::Leaf && certificate.subject().is_empty() {
            return wrong("the subject of a CA is empty");
        }
        let Some(names) = certificate.extensions().subject_alt_name else { return Ok(()) };
        if certificate.subject().is_empty() && !names.critical {
            return wrong("the subject is empty but the subjectAltName is not critical");
        }
        if matches!(self.profile, Profile::Web { .. }) {
            let is_critical_for_nothing = names.critical && !certificate.subject().is_empty();
            if self.profile.is_public() && place == Place::Leaf && is_critical_for_nothing {
                return wrong("the subjectAltName is critical beside a subject");
            }
            if !names.value.iter().all(|name| name.is_subject_name()) {
                return wrong("an alternative name is malformed");
            }
        }
        Ok(())
    }

    fn validity(&self, certificate: &Certificate<'_>, place: Place) -> Checked {
        let (not_before, not_after, now) = (certificate.not_before(), certificate.not_after(), self.now);
        if not_after < not_before {
            return Err(ValidationError::ValidityReversed(place));
        }
        let peer_time = self.peer_time.filter(|time| (not_before..=not_after).contains(time));
        let skew = peer_time.map(|peer_time| Skew { peer_time, apart: now.since(peer_time).max(peer_time.since(now)) });
        if now > not_after {
            let ago = now.since(not_after);
            return Err(ValidationError::Expired { place, ago, not_after, now, skew });
        }
        if now < not_before {
            let starts_in = not_before.since(now);
            return Err(ValidationError::NotYetValid { place, starts_in, not_before, now, skew });
        }
        Ok(())
    }

    fn key_identifiers(&self, certificate: &Certificate<'_>, place: Place) -> Checked {
        let wrong = |fault| Err(ValidationError::KeyIdentifier { place, fault });
        let extensions = certificate.extensions();
        if extensions.subject_key_id.is_some_and(|id| id.critical) {
            return wrong("the subjectKeyIdentifier is critical");
        }
        if extensions.authority_key_id.is_some_and(|id| id.critical) {
            return wrong("the authorityKeyIdentifier is critical");
        }
        let Profile::Web { .. } = self.profile else { return Ok(()) };
        if place != Place::Leaf && extensions.subject_key_id.is_none() {
            return wrong("a CA has no subjectKeyIdentifier");
        }
        let names_its_own_key =
            certificate.is_self_issued() && certificate.authority_key_id() == certificate.subject_key_id();
        let is_public_anchor = self.profile.is_public() && matches!(place, Place::Anchor(_));
        match (extensions.authority_key_id.map(|id| id.value), place) {
            (Some(id), _) if id.key_id.is_none() => wrong("the authorityKeyIdentifier names no key"),
            (Some(id), _) if is_public_anchor && id.names_issuer => wrong("the authorityKeyIdentifier names an issuer"),
            (Some(_), _) if is_public_anchor && certificate.is_self_issued() && !names_its_own_key => {
                wrong("the two key identifiers differ")
            }
            // A root, trusted or merely shown.
            (None, Place::Anchor(_) | Place::Intermediate(_)) if certificate.is_self_issued() => Ok(()),
            (None, _) => wrong("there is no authorityKeyIdentifier"),
            (Some(_), _) => Ok(()),
        }
    }

    fn issuer_basic_constraints(&self, issuer: &Certificate<'_>, place: Place) -> Checked {
        let wrong = |fault| Err(ValidationError::BasicConstraints { place, fault });
        match issuer.extensions().basic_constraints {
            None => wrong("there is no basicConstraints extension"),
            Some(constraints) if !constraints.value.is_ca => wrong("the certificate is not that of a CA"),
            Some(constraints) if !constraints.critical && matches!(self.profile, Profile::Web { .. }) => {
                wrong("the basicConstraints extension is not critical")
            }
            Some(_) => Ok(()),
        }
    }

    fn issuer_key_usage(&self, issuer: &Certificate<'_>, place: Place) -> Checked {
        let wrong = |fault| Err(ValidationError::KeyUsage { place, fault });
        match (issuer.extensions().key_usage, self.profile) {
            (Some(usage), _) if !usage.value.cert_sign() => wrong("keyCertSign is not set"),
            (Some(usage), _) if issuer.key.only_signs() && usage.value.encrypts() => wrong(ENCRYPTS),
            (None, Profile::Svid) => wrong("there is no keyUsage extension"),
            (None, Profile::Web { .. }) | (Some(_), _) => Ok(()),
        }
    }

    /// Where a CA has purposes, they limit those of everything below it (CA/Browser Forum, 7.1.2.10.6).
    fn issuer_extended_key_usage(&self, issuer: &Certificate<'_>, place: Place) -> Checked {
        let Some(usage) = issuer.extensions().extended_key_usage else { return Ok(()) };
        if self.profile.is_public() && matches!(place, Place::Anchor(_)) && issuer.is_self_issued() {
            let fault = "a root has an extendedKeyUsage";
            return Err(ValidationError::ExtendedKeyUsageForm { place, fault });
        }
        let allows = |purpose| usage.value.names_any() || usage.value.names(purpose);
        let purposes: &[Purpose] = match &self.profile {
            Profile::Svid => &[Purpose::ServerAuth, Purpose::ClientAuth],
            Profile::Web { purpose, .. } => std::slice::from_ref(purpose),
        };
        match purposes.iter().find(|purpose| !allows(**purpose)) {
            Some(&purpose) => Err(ValidationError::ExtendedKeyUsage { place, purpose }),
            None => Ok(()),
        }
    }

    /// The purpose; on the public web that one and not any, and not critical (CA/Browser Forum, 7.1.2.7.10).
    fn web_extended_key_usage(&self, leaf: &Certificate<'_>, purpose: Purpose) -> Checked {
        let wrong = |fault| Err(ValidationError::ExtendedKeyUsageForm { place: Place::Leaf, fault });
        let Some(usage) = leaf.extensions().extended_key_usage else { return Ok(()) };
        let names_any = usage.value.names_any();
        if self.profile.is_public() && usage.critical {
            return wrong("the extendedKeyUsage is critical");
        }
        if self.profile.is_public() && names_any {
            return wrong("the extendedKeyUsage allows any purpose");
        }
        if names_any || usage.value.names(purpose) {
            return Ok(());
        }
        Err(ValidationError::ExtendedKeyUsage { place: Place::Leaf, purpose })
    }
}

const ENCRYPTS: &str = "a key that can only sign may encrypt";

/// The one SPIFFE ID of a leaf (checklist X5-1, X5-3).
pub(crate) fn spiffe_id(leaf: &Certificate<'_>) -> Result<SpiffeId, ValidationError> {
    let names = leaf.extensions().subject_alt_name.map(|names| names.value);
    let mut uris = names.iter().flat_map(|names| names.uris());
    let first = uris.next().ok_or(ValidationError::NotOneUri(0))?;
    match uris.count() {
        0 => first.parse().map_err(ValidationError::BadSpiffeId),
        more => Err(ValidationError::NotOneUri(1 + more)),
    }
}

/// That a signing certificate names no trust domain but `wanted`, and nobody in it (checklist X5-7).
pub(crate) fn signs_for(issuer: &Certificate<'_>, place: Place, wanted: &TrustDomain) -> Checked {
    let names = issuer.extensions().subject_alt_name.map(|names| names.value);
    let foreign = names.iter().flat_map(|names| names.uris()).find(|uri| *uri != wanted.id_text());
    match foreign {
        None => Ok(()),
        Some(found) => Err(ValidationError::ForeignAuthority { place, found: found.into(), wanted: wanted.clone() }),
    }
}

fn serial(certificate: &Certificate<'_>, place: Place) -> Checked {
    // Integers are in their shortest form, so zero is one byte.
    let is_positive = certificate.serial()[0] & 0x80 == 0 && certificate.serial() != [0];
    if is_positive && certificate.serial().len() <= 20 { Ok(()) } else { Err(ValidationError::Serial(place)) }
}

fn algorithm(certificate: &Certificate<'_>, place: Place) -> Checked {
    match (certificate.signed.kind, place) {
        // Nobody checks how an anchor is signed: it is trusted for its key.
        (_, Place::Anchor(_)) | (Some(_), _) => Ok(()),
        (None, _) => Err(ValidationError::Algorithm(place)),
    }
}

fn key(certificate: &Certificate<'_>, place: Place) -> Checked {
    match certificate.key.weakness() {
        None => Ok(()),
        Some(weakness) => Err(ValidationError::Key { place, weakness }),
    }
}

fn critical_extensions(certificate: &Certificate<'_>, place: Place) -> Checked {
    let extensions = certificate.extensions();
    if let Some(oid) = extensions.unknown_critical {
        return Err(ValidationError::UnknownCritical { place, oid: DottedOid(oid).to_string().into() });
    }
    let wrong = |fault| Err(ValidationError::Criticality { place, fault });
    if extensions.authority_info_access.is_some_and(|access| access.critical) {
        return wrong("the authorityInfoAccess is critical");
    }
    if extensions.lax_policy_constraints {
        return wrong("the policyConstraints extension is not critical");
    }
    Ok(())
}

fn leaf_basic_constraints(leaf: &Certificate<'_>) -> Checked {
    match leaf.extensions().basic_constraints {
        Some(constraints) if constraints.value.is_ca => return Err(ValidationError::LeafIsCa),
        Some(constraints) if constraints.value.path_len.is_some() => {
            return Err(ValidationError::CaExtensionInLeaf("pathLenConstraint"));
        }
        Some(_) | None => {}
    }
    match leaf.extensions().name_constraints {
        Some(_) => Err(ValidationError::CaExtensionInLeaf("nameConstraints")),
        None => Ok(()),
    }
}

/// X509-SVID, section 4.3: critical, with digitalSignature, without what signs certificates and lists.
fn svid_key_usage(leaf: &Certificate<'_>) -> Checked {
    let wrong = |fault| Err(ValidationError::KeyUsage { place: Place::Leaf, fault });
    match leaf.extensions().key_usage {
        None => wrong("there is no keyUsage extension"),
        Some(usage) if !usage.critical => wrong("the keyUsage extension is not critical"),
        Some(usage) if usage.value.cert_sign() || usage.value.crl_sign() => Err(ValidationError::LeafMaySign),
        Some(usage) if !usage.value.digital_signature() => wrong("digitalSignature is not set"),
        Some(usage) if leaf.key.only_signs() && usage.value.encrypts() => wrong(ENCRYPTS),
        Some(_) => Ok(()),
    }
}

/// X509-SVID, section 4.4: if there is one, it allows both ends of a session.
fn svid_extended_key_usage(leaf: &Certificate<'_>) -> Checked {
    let Some(usage) = leaf.extensions().extended_key_usage else { return Ok(()) };
    let missing = [Purpose::ServerAuth, Purpose::ClientAuth].into_iter().find(|purpose| !usage.value.names(*purpose));
    match missing {
        Some(purpose) => Err(ValidationError::ExtendedKeyUsage { place: Place::Leaf, purpose }),
        None => Ok(()),
    }
}

fn web_key_usage(leaf: &Certificate<'_>) -> Checked {
    let wrong = |fault| Err(ValidationError::KeyUsage { place: Place::Leaf, fault });
    match leaf.extensions().key_usage {
        Some(usage) if usage.value.cert_sign() || usage.value.crl_sign() => Err(ValidationError::LeafMaySign),
        // TLS 1.3 signs, whatever else the key may do.
        Some(usage) if !usage.value.digital_signature() => wrong("digitalSignature is not set"),
        Some(usage) if leaf.key.only_signs() && usage.value.encrypts() => wrong(ENCRYPTS),
        Some(_) | None => Ok(()),
    }
}

/// The alternative names of `leaf`.
pub(crate) fn alternative_names<'a>(leaf: &Certificate<'a>) -> impl Iterator<Item = GeneralName<'a>> + use<'a> {
    let names = leaf.extensions().subject_alt_name.map(|names| names.value);
    names.into_iter().flat_map(|names| names.iter().collect::<Vec<_>>())
}
