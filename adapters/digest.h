/* The digest of an adapter version: its identity everywhere (the engine's name for it, the root of its KV cache, the
 * store).
 *
 * SHA-256 over this text, in UTF-8:
 *
 *     one line per tensor, in the order of the tensors' names (bytes, as strcmp):
 *         NAME SP DTYPE SP SHAPE SP HASH LF
 *         DTYPE as safetensors spells it (F32, F16, BF16); SHAPE like [8,576], no spaces;
 *         HASH the SHA-256 of the tensor's bytes in lower-case hex
 *     then the canonical JSON (keys sorted, no spaces, no newline) of one object with these fields:
 *         alora_invocation_tokens   list in the file's order, or null
 *         alpha_pattern             list of [pattern, value] in the file's order, because the first match wins; [] when absent
 *         base                      the base's digest
 *         fan_in_fan_out            true or false
 *         layers_pattern            sorted list, or null
 *         layers_to_transform       sorted list, each once, or null
 *         lora_alpha                number; an integer when it is integral (16.0 is 16)
 *         peft_type                 "LORA"
 *         r                         number
 *         rank_pattern              as alpha_pattern
 *         target_modules            sorted list, each once, or the pattern
 *         use_dora, use_rslora      true or false
 *     and these, each only where it says something:
 *         ensure_weight_tying       true
 *         modules_to_save           sorted list of "embed_tokens", "lm_head"
 *         target_parameters         sorted list, each once
 *
 * So neither the order of tensors in the file, nor its metadata, nor the spelling of the config matters; what can
 * change an answer does. */
#pragma once
#include "adapters/peft.h"
#include "adapters/safetensors.h"
#include "base/sha256.h"

/* breathe(u) is called again and again; NULL: nothing. */
int adapter_digest(const struct st_file *f, const struct peft_config *c, const char *base_digest,
                   void (*breathe)(void *u), void *u, char out[SHA256_HEX], struct err *e);
