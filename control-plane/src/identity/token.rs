//! Tokens of service accounts: JSON web tokens signed with a key of the cluster (ES256).

use std::collections::HashSet;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
    },
};
use serde_json::{Value, json};

/// Who issues tokens, and for whom they are unless something else is asked for: this API.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A token of ours has about a thousand bytes.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Tokens whose signatures need no second look; a caller sends its token with each request.
const VERIFIED_MAX: usize = 1024;

/// A point on the curve is one byte of form and two numbers of this size.
const COORDINATE_BYTES: usize = 32;

const ALGORITHM: &str = "ES256";

/// The key that signs tokens.
pub(crate) struct TokenKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    /// The public point, uncompressed.
    public: Vec<u8>,
    /// What tokens call the key: the digest of its public half, as on a stock server.
    id: String,
    pem: String,
    /// Digests of tokens that this key is known to have signed.
    verified: Mutex<HashSet<[u8; digest::SHA256_OUTPUT_LEN]>>,
}

impl TokenKey {
    pub(super) fn generate() -> Result<TokenKey, rcgen::Error> {
        TokenKey::of(&KeyPair::generate()?)
    }

    pub(super) fn from_pem(pem: &str) -> Result<TokenKey, rcgen::Error> {
        TokenKey::of(&KeyPair::from_pem(pem)?)
    }

    fn of(key: &KeyPair) -> Result<TokenKey, rcgen::Error> {
        let random = SystemRandom::new();
        let der = key.serialize_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|error| rcgen::Error::RingKeyRejected(error.to_string()))?;
        let digest = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        Ok(TokenKey {
            pair,
            random,
            public: key.public_key_raw().to_vec(),
            id: BASE64.encode(digest),
            pem: key.serialize_pem(),
            verified: Mutex::default(),
        })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// Makes a token of claims; nothing if the system gives no random numbers.
    pub(crate) fn sign(&self, claims: &Value) -> Option<String> {
        let header = json!({"alg": ALGORITHM, "kid": self.id}).to_string();
        let (header, claims) = (BASE64.encode(header), BASE64.encode(claims.to_string()));
        let text = format!("{header}.{claims}");
        let signature = self.pair.sign(&self.random, text.as_bytes()).ok()?;
        Some(format!("{text}.{}", BASE64.encode(signature)))
    }

    /// Returns the claims of a token that this key has signed; they may be outdated.
    pub(crate) fn verify(&self, token: &str) -> Option<Value> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (text, signature) = token.rsplit_once('.')?;
        let (header, claims) = text.split_once('.')?;
        let decode = |part: &str| BASE64.decode(part).ok();
        let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
        if header["alg"] != ALGORITHM || header["kid"] != *self.id {
            return None;
        }
        let digest = digest::digest(&digest::SHA256, token.as_bytes());
        let digest = digest.as_ref().try_into().ok()?;
        if !self.verified.lock().contains(&digest) {
            let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public);
            key.verify(text.as_bytes(), &decode(signature)?).ok()?;
            let mut verified = self.verified.lock();
            if verified.len() >= VERIFIED_MAX {
                verified.clear();
            }
            verified.insert(digest);
        }
        serde_json::from_slice(&decode(claims)?).ok()
    }

    /// Returns the public half as a JSON web key set.
    pub(crate) fn key_set(&self) -> Value {
        let point = self.public.get(1..).unwrap_or_default();
        let (x, y) = point.split_at_checked(COORDINATE_BYTES).unwrap_or_default();
        json!({"keys": [{
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": ALGORITHM,
            "x": BASE64.encode(x),
            "y": BASE64.encode(y),
        }]})
    }
}

/// Returns what relying parties read first.
pub(crate) fn configuration() -> Value {
    json!({
        "issuer": ISSUER,
        "jwks_uri": format!("{ISSUER}/openid/v1/jwks"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_key_has_signed_is_believed() {
        let key = TokenKey::generate().unwrap();
        let claims = json!({"sub": "system:serviceaccount:a:b"});
        let token = key.sign(&claims).unwrap();
        // The second time without a look at its signature.
        for _ in 0..2 {
            assert_eq!(key.verify(&token), Some(claims.clone()));
        }
        let again = TokenKey::from_pem(key.pem()).unwrap();
        assert_eq!(again.verify(&token), Some(claims.clone()));
        let other = TokenKey::generate().unwrap();
        assert_eq!(other.verify(&token), None);
        let (text, signature) = token.rsplit_once('.').unwrap();
        let (header, _) = text.split_once('.').unwrap();
        let forged = BASE64.encode(json!({"sub": "system:admin"}).to_string());
        let none = BASE64.encode(json!({"alg": "none", "kid": key.id}).to_string());
        for bad in [
            format!("{header}.{forged}.{signature}"),
            format!("{none}.{forged}."),
            format!("{text}."),
            text.to_owned(),
            "..".to_owned(),
            String::new(),
            "a".repeat(TOKEN_BYTES_MAX + 1),
        ] {
            assert_eq!(key.verify(&bad), None, "{bad:.80}");
        }
    }

    #[test]
    fn the_tokens_that_are_remembered_are_bounded() {
        let key = TokenKey::generate().unwrap();
        for number in 0..=VERIFIED_MAX {
            let token = key.sign(&json!({"number": number})).unwrap();
            assert!(key.verify(&token).is_some());
            assert!(key.verified.lock().len() <= VERIFIED_MAX);
        }
        assert_eq!(key.verified.lock().len(), 1);
    }
}
