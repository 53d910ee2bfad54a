/* api_hello: GET /weft/v1/hello?nonce=HEX: this engine proves that it knows its bearer token, without being given it.
 *
 * Whoever is about to send the token asks first. The answer is a nonce of ours and HMAC-SHA-256(token, "weft hello " theirs
 * " " ours): who only listens learns nothing that helps for another nonce, and because ours is fresh each time, nobody can
 * have us compute a proof that some other protocol would take. The route is open, like /health; it costs one HMAC. */
#include "base/sha256.h"
#include "engine/api_impl.h"
#include <stdio.h>
#include <string.h>

void api_hello(struct http_request *r)
{
    struct api *a = r->server_user;
    const char *theirs = http_query(r, "nonce");
    uint8_t nonce[SHA256_BYTES], mac[SHA256_BYTES];
    char ours[SHA256_HEX], proof[SHA256_HEX], text[16 + 2 * SHA256_HEX];
    struct err e = {0};

    if (!a->token)
        err_set(&e, ERR_NOT_FOUND, "this engine has no token to prove");
    else if (!theirs || !sha256_is_hex(theirs))
        err_field(&e, ERR_INVALID, "nonce", "'nonce' must be 64 lower-case hex digits");
    else if (random_bytes(nonce, sizeof nonce))
        err_errno(&e, "no random bytes for a nonce");
    if (e.code) {
        api_refuse(r, &e);
        return;
    }
    sha256_hex(nonce, ours);
    int n = snprintf(text, sizeof text, "weft hello %s %s", theirs, ours);
    sha256_hmac(a->token, strlen(a->token), text, (size_t)n, mac);
    sha256_hex(mac, proof);
    api_reply_json(r, json_pack("{s:s, s:s}", "nonce", ours, "proof", proof));
}
