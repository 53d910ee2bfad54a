/* Parcels: what a primary sends to its standby. A line of JSON, bytes, and the SHA-256 of both:
 *
 *     {"epoch":"...","gen":7,...}\n   bytes...   32 bytes of digest
 *
 * Nothing of a parcel is looked at before its digest was compared. */
#pragma once
#include "base/json.h"
#include "base/sha256.h"

#define PARCEL_HEAD_MAX 4096
#define PARCEL_BYTES_MAX (72u << 20) /* all of one: FEED_PAGES_MOST pages and the longest list */
#define PARCEL_VERSION 2             /* `feed` of the head: a primary that says so knows the fields `most` and `have` of a question, and
                                      * says before_us */

/* head (taken) begins it; what is added to b next is its bytes; parcel_end() seals it. -1: the buffer is full, or memory short. */
int parcel_begin(struct buf *b, json_t *head);
int parcel_end(struct buf *b);

/* *head is the caller's; *bytes points into text. ERR_INVALID: it is not whole. */
int parcel_open(const char *text, size_t n, json_t **head, const char **bytes, size_t *len, struct err *e);

/* Stands for the gateway whose pepper it is: each parcel about its database has it, and a standby's pepper is held to it. */
void parcel_tag(const uint8_t pepper[32], char out[SHA256_HEX]);

/* Four bytes, the greatest first. */
static inline uint32_t get_be32(const void *from)
{
    const unsigned char *p = from;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline void put_be32(uint32_t v, unsigned char out[4])
{
    for (int i = 0; i < 4; i++) out[i] = (unsigned char)(v >> (24 - 8 * i));
}
