/* Who: tenants, keys, admin keys, as an immutable snapshot that is replaced after each change (RELIABILITY.md section 3).
 *
 * A tenant key is wft_<12 char public id>_<43 char secret>_<6 char checksum>, an admin key the same with wfa_. The database holds the public id
 * and HMAC-SHA-256(pepper, secret). Every failure of any cause is the same 401. When a call that revokes returns, the next check refuses. */
#pragma once
#include "base/err.h"
#include "base/sha256.h"
#include "gateway/db/db.h"

#define NAME_MAX_LEN 64 /* [a-z0-9][a-z0-9._-]{0,63} */
#define KEY_TEXT_LEN 80
#define KEY_ID_LEN 16
#define CLASS_LEN 12
#define KEYS_TENANT_MAX 10000 /* of one tenant that are neither revoked nor over */
#define KEY_WORDS_LEN 128 /* of a key's roles or scopes, with commas between */

enum scope {
    SCOPE_INFER = 1,
    SCOPE_WRITE = 2,
    SCOPE_USAGE = 4,
    SCOPE_KEYS = 8,
    SCOPE_ADMIN_READ = 16,
    SCOPE_ADMIN = 32,
    SCOPE_BACKUP = 64 /* an admin key's: to follow as a standby, which gives all there is, the pepper too */
};

struct principal {
    char tenant[UUID_LEN]; /* id; "" for an admin */
    char tenant_name[NAME_MAX_LEN + 1];
    char tag[33];          /* opaque tag for engines: HMAC(pepper, tenant id), hex */
    double weight;         /* share of the engine */
    bool private;          /* no byte leaves for an engine that isn't local */
    char class[CLASS_LEN]; /* interactive, normal or batch (X-Weft-Class) */
    int64_t deadline_ms;   /* of the first token (X-Weft-Deadline-Ms), 0: none */
    char key[KEY_ID_LEN];  /* public id */
    unsigned scopes;
    bool judge; /* a judge's question (gateway/quality/judge.h): nobody looks at its answer afterwards */
};

struct auth;

/* What every refusal says. */
#define AUTH_REFUSED "Incorrect API key provided, or none. Send a valid key as 'Authorization: Bearer KEY'."

struct db *auth_db(struct auth *a);

int auth_open(struct auth **out, struct db *d, struct err *e);
void auth_close(struct auth *a);

/* bearer as the client sent it (NULL: none). tenant_in_path: the {tenant} of /t/{tenant}/..., or NULL. 0 or -1 with ERR_UNAUTHORIZED; lacking
 * the scope: ERR_FORBIDDEN. Any thread, no database access. */
int auth_check(struct auth *a, const char *bearer, const char *tenant_in_path, unsigned scope, struct principal *out,
               struct err *e);
int auth_check_admin(struct auth *a, const char *bearer, unsigned scope, struct principal *out, struct err *e);

/* Is the key's tenant private by now, whatever it was when the request came? false for a key that is no more. As above. */
bool auth_is_private(struct auth *a, const char *key);

/* Is a key that was checked before still good for this scope? For answers that last: no use is noted. Any thread. */
bool auth_still(struct auth *a, const struct principal *who, unsigned scope);

bool name_is_valid(const char *s); /* the rule for tenants, adapters and aliases */

/* Rebuild the snapshot from the database after a committed change; the change is in force when it returns. */
int auth_reload(struct auth *a, struct err *e);

/* Writes down when keys were last used: at most once in AUTH_NOTE_S whatever the load, and never more than a bounded batch; call it about
 * once a second. auth_close() writes what is left. */
#define AUTH_NOTE_S 60
void auth_note_uses(struct auth *a);

/* Make the first admin key if there is none; key_text gets it, or "" when one exists already. Used by `weft-gateway admin-key`. */
int auth_first_admin_key(struct db *d, char key_text[KEY_TEXT_LEN], struct err *e);

int auth_new_admin_key(struct db *d, char key_text[KEY_TEXT_LEN], struct err *e); /* a further one */

/* --- making keys (auth_key.c) --- */

struct new_key {
    char id[KEY_ID_LEN];
    char text[KEY_TEXT_LEN]; /* shown once, stored nowhere */
    uint8_t hash[SHA256_BYTES];
};
int auth_key_make(const uint8_t pepper[32], bool admin, struct new_key *out, struct err *e);

/* Takes a key's text apart; false when prefix, length, alphabet or checksum is wrong. secret: 43 characters and a NUL. */
bool auth_key_parse(const char *text, bool *admin, char id[KEY_ID_LEN], char secret[44]);
/* The same for the token by which an engine fetches adapters (gateway/pool/blobs.h): wfe_..., good for nothing else. */
int auth_engine_token_make(const uint8_t pepper[32], struct new_key *out, struct err *e);
bool auth_engine_token_parse(const char *text, char id[KEY_ID_LEN], char secret[44]);
void auth_key_hash(const uint8_t pepper[32], const char *secret, uint8_t out[SHA256_BYTES]);

/* A role's or a scope's word -> scopes; false: no such word for this kind of key. */
bool auth_role(const char *word, bool admin, unsigned *scopes);
bool auth_scope(const char *word, bool admin, unsigned *scope);
/* The words of `have`, one a call; *at begins at 0; NULL ends. */
const char *auth_scope_word(unsigned have, int *at);
/* Of both lists as rows hold them, with commas between. */
unsigned auth_scopes_of(const char *role_words, const char *scope_words, bool admin);

/* Why checks were refused, since the start; clients see one answer for all. */
enum auth_cause {
    AUTH_NO_KEY,
    AUTH_MALFORMED,
    AUTH_UNKNOWN,
    AUTH_WRONG_SECRET,
    AUTH_EXPIRED,
    AUTH_OTHER_TENANT,
    AUTH_SCOPE,
    AUTH_CAUSES
};
extern const char *const auth_cause_name[AUTH_CAUSES];
int64_t auth_refused(const struct auth *a, enum auth_cause cause);
