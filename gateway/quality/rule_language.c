/* rule_language: which language a text is in, without a model: by its scripts, and where several languages share one, by their commonest words.
 *
 * A script that only one of the known languages is written in tells it (Hangul: ko; kana: ja; Greek: el; ...); Han without kana is zh. Latin and Cyrillic
 * letters are told apart by words: the language with the most of its commonest words in the text is it, where these are a twelfth of the words at least and
 * a tenth more than the next language's. Texts of few words are left undecided: a rule that guesses is worse than one that is silent. Words of several
 * languages (de, en, la) count for each that has them. */
#include "base/buf.h"
#include "gateway/quality/rule.h"
#include <stdio.h>
#include <string.h>

#define WORDS_MIN 4     /* of Latin or Cyrillic script, before anything is said */
#define WORDS_LOOKED 2000 /* of a text */
#define SHARE_MIN (1.0 / 12)
#define LEAD_MIN 1.1
#define SCRIPT_MIN 0.5 /* of the letters */

static const struct language {
    const char *word, *common; /* common: with a blank around each; NULL: told by the script */
    bool cyrillic;
} languages[] = {
    {"en", " the of and to in is that it was for on are as with his they at be this have from or one had by but not what all were we when your can said there use an each which she do how their if will up other about out many then them these so some her would make like him into has two more no way could my than been who its now did get come may i you he a any does why too very also just only am here us me yes ", false},
    {"de", " der die das und in zu den ist nicht von mit sich des auf für eine einen einem einer ein dem es im als auch an werden aus er hat dass sie nach wird bei noch wie um am sind war haben oder aber vor zur bis mehr durch man so zum über wenn nur kann ich wir ihr sein wurde was hier schon kein keine bitte mein meine ", false},
    {"fr", " le la les de des et à un une du en est que qui dans pour pas au sur il ce se ne par plus avec son sa ses ont je vous nous elle mais ou où comme été cette être sont aux leur tout fait ils même on si y ces mon ma votre notre très bien l d c j n s qu ", false},
    {"es", " el la los las de y en que un una por con para no se su al lo es del como más pero sus le ya o este sí porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno les ni contra otros ese eso ante ellos esto mí qué yo está son ha tiene mi usted ", false},
    {"it", " il la le lo gli i di e che un una in per non è con si da del della dei delle al alla sono come più ma anche nel nella ha questo questa suo sua o se ci io ho mi ti tu lui lei noi quando dove perché molto cosa essere ", false},
    {"pt", " o a os as de e em que um uma para com não do da dos das no na nos nas por se mais como mas ao ele ela foi é são seu sua ou quando muito já eu também só pelo pela até isso entre depois sem mesmo aos você tem está ser à meu minha ", false},
    {"nl", " de het een en van ik te dat die in is niet zijn op aan met als voor had er maar om hem dan zou of wat mijn men dit zo door over ze zich bij ook tot je mij uit der daar haar naar heb hoe heeft hebben deze u want nog zal me zij nu ge geen omdat iets worden toch al waren veel meer doen toen moet ben zonder kan hun ", false},
    {"sv", " och i att det som en på är av för med den till inte har de ett om jag han var så men sig från vi kan när hon nu ska hade sin där mot skulle eller alla vid än bara efter du ut upp också under mycket in här över detta vad ", false},
    {"pl", " i w na z nie się do to że jest jak o ale co po tak za od go jego czy ja już tylko było są być dla przez może bardzo ma mnie który która które jeszcze przy ten ta tego tej pan pani mi ze ", false},
    {"tr", " ve bir bu da de için çok ne o ile var mı mi daha gibi kadar ama ben sen biz siz değil olarak olan sonra her en ya ki şey şu nasıl neden ise olduğu oldu yok ", false},
    {"ru", " и в не на я что он с как это по но она из у за от так же все его только мне было вы бы да мы они ещё еще к для нет был если или ты уже до мой может быть где когда очень чтобы при ", true},
    {"uk", " і в не на я що він з як це по але вона із у за від так же всі його тільки мені було ви б та ми вони ще до для ні був якщо або ти вже мій може бути де коли дуже щоб при є ", true},
    {"ja", NULL, false}, {"zh", NULL, false}, {"ko", NULL, false}, {"ar", NULL, false}, {"he", NULL, false}, {"el", NULL, false}, {"hi", NULL, false}, {"th", NULL, false},
};
#define LANGUAGES (sizeof languages / sizeof *languages)

bool language_known(const char *word)
{
    for (size_t i = 0; i < LANGUAGES; i++)
        if (strcmp(languages[i].word, word) == 0) return true;
    return false;
}

static bool has_word(const char *common, const char *w, size_t n)
{
    char text[WORD_MAX + 2] = " ";
    if (!common || n >= WORD_MAX) return false;
    memcpy(text + 1, w, n);
    text[n + 1] = ' ';
    return memmem(common, strlen(common), text, n + 2) != NULL;
}

bool language_stop_word(const char *w, size_t n)
{
    for (size_t i = 0; i < LANGUAGES; i++)
        if (has_word(languages[i].common, w, n)) return true;
    return false;
}

/* --- characters --- */

static uint32_t code_at(const char *s, size_t n, size_t *len)
{
    const unsigned char *u = (const unsigned char *)s;
    bool good;
    *len = buf_utf8(s, n, &good);
    if (!good) return 0xfffd;
    if (*len == 1) return u[0];
    if (*len == 2) return (uint32_t)(u[0] & 0x1f) << 6 | (u[1] & 0x3f);
    if (*len == 3) return (uint32_t)(u[0] & 0x0f) << 12 | (uint32_t)(u[1] & 0x3f) << 6 | (u[2] & 0x3f);
    return (uint32_t)(u[0] & 0x07) << 18 | (uint32_t)(u[1] & 0x3f) << 12 | (uint32_t)(u[2] & 0x3f) << 6 | (u[3] & 0x3f);
}

/* The scripts whose languages are known; the rest has no say. */
static const struct script {
    uint32_t from, to;
    const char *word; /* the language that it tells; "latin", "cyrillic", "han" */
} scripts[] = {
    {'A', 'Z', "latin"}, {'a', 'z', "latin"}, {0xc0, 0x24f, "latin"}, {0x1e00, 0x1eff, "latin"}, {0x370, 0x3ff, "el"}, {0x400, 0x52f, "cyrillic"}, {0x590, 0x5ff, "he"},
    {0x600, 0x6ff, "ar"}, {0x750, 0x77f, "ar"}, {0x900, 0x97f, "hi"}, {0xe00, 0xe7f, "th"}, {0x1100, 0x11ff, "ko"}, {0x3040, 0x30ff, "ja"}, {0x3400, 0x4dbf, "han"},
    {0x4e00, 0x9fff, "han"}, {0xac00, 0xd7af, "ko"},
};
#define SCRIPTS (sizeof scripts / sizeof *scripts)

static int script_of(uint32_t c)
{
    for (size_t i = 0; i < SCRIPTS; i++)
        if (c >= scripts[i].from && c <= scripts[i].to && c != 0xd7 && c != 0xf7) return (int)i;
    return -1;
}

/* Of Latin-1, Greek and Cyrillic; other letters stay as they are. */
static uint32_t lower(uint32_t c)
{
    if ((c >= 'A' && c <= 'Z') || (c >= 0xc0 && c <= 0xde && c != 0xd7) || (c >= 0x391 && c <= 0x3a9) || (c >= 0x410 && c <= 0x42f)) return c + 0x20;
    if (c >= 0x400 && c <= 0x40f) return c + 0x50;
    return c >= 0x100 && c <= 0x17f && c != 0x130 && c != 0x131 && !(c & 1) && c < 0x138 ? c + 1 : c;
}

static void put(struct word *w, uint32_t c)
{
    char s[4];
    size_t n = 0;
    if (c < 0x80) s[n++] = (char)c;
    else if (c < 0x800) s[n++] = (char)(0xc0 | c >> 6), s[n++] = (char)(0x80 | (c & 0x3f));
    else if (c < 0x10000) s[n++] = (char)(0xe0 | c >> 12), s[n++] = (char)(0x80 | (c >> 6 & 0x3f)), s[n++] = (char)(0x80 | (c & 0x3f));
    else s[n++] = (char)(0xf0 | c >> 18), s[n++] = (char)(0x80 | (c >> 12 & 0x3f)), s[n++] = (char)(0x80 | (c >> 6 & 0x3f)), s[n++] = (char)(0x80 | (c & 0x3f));
    if (w->n + n >= sizeof w->s) return;
    memcpy(w->s + w->n, s, n);
    w->n += n;
    w->letters++;
}

static bool is_digit(uint32_t c) { return c >= '0' && c <= '9'; }

/* Of a word. Beyond ASCII all but the signs of Latin-1, general and CJK punctuation, and the wide forms of ASCII's. */
static bool is_letter(uint32_t c)
{
    if (c < 0xaa) return (c | 0x20) - 'a' < 26 || is_digit(c);
    if (c == 0xab || c == 0xb7 || c == 0xbb || c == 0xbf || c == 0xd7 || c == 0xf7 || c == 0xfffd) return false;
    if ((c >= 0x2000 && c <= 0x303f) || (c >= 0xff00 && c <= 0xff0f)) return false;
    return c != 0xff1a && c != 0xff1b && c != 0xff1f;
}

/* A word of one character: kana, Han, Thai. */
static bool is_alone(uint32_t c) { return (c >= 0x3040 && c <= 0x30ff) || (c >= 0x3400 && c <= 0x9fff) || (c >= 0xe00 && c <= 0xe7f); }
static bool is_end(uint32_t c) { return c == '.' || c == '!' || c == '?' || c == '\n' || c == 0x3002 || c == 0xff01 || c == 0xff1f; }

bool word_next(const char *s, size_t n, size_t *at, struct word *w)
{
    size_t len;
    *w = (struct word){.number = true};
    for (; *at < n; *at += len) {
        uint32_t c = code_at(s + *at, n - *at, &len), then = 0;
        size_t skip;
        if (is_letter(c)) {
            if (w->n && is_alone(c)) return true; /* of the next one */
            put(w, lower(c));
            w->number &= is_digit(c);
            if (!is_alone(c)) continue;
            *at += len;
            return true;
        }
        if (*at + len < n) then = code_at(s + *at + len, n - *at - len, &skip);
        bool inside = w->n && is_letter(then) && !is_alone(then);
        if (inside && w->number && (c == '.' || c == ',') && is_digit(then)) { /* 1.5 and 1,5 and 1,000: a number */
            put(w, '.');
            continue;
        }
        if (w->n) return true;
        if (is_end(c)) w->after_end = true;
    }
    return w->n > 0;
}

/* --- telling --- */

static const char *by_words(const char *s, size_t n, bool cyrillic, double *sure)
{
    int hits[LANGUAGES] = {0}, words = 0;
    size_t best = 0, next = LANGUAGES;
    struct word w;
    for (size_t at = 0; words < WORDS_LOOKED && word_next(s, n, &at, &w);) {
        if (w.number) continue;
        words++;
        for (size_t i = 0; i < LANGUAGES; i++)
            if (languages[i].common && languages[i].cyrillic == cyrillic) hits[i] += has_word(languages[i].common, w.s, w.n);
    }
    for (size_t i = 1; i < LANGUAGES; i++)
        if (hits[i] > hits[best]) best = i;
    for (size_t i = 0; i < LANGUAGES; i++)
        if (i != best && (next == LANGUAGES || hits[i] > hits[next])) next = i;
    *sure = words ? (double)hits[best] / words : 0;
    bool leads = hits[best] > LEAD_MIN * hits[next];
    return words >= WORDS_MIN && *sure >= SHARE_MIN && leads ? languages[best].word : "";
}

const char *language_of(const char *s, size_t n, double *sure)
{
    int64_t seen[SCRIPTS] = {0}, all = 0, kana = 0, han = 0, latin = 0, cyrillic = 0, best = 0;
    const char *word = "";
    size_t len;
    *sure = 0;
    for (size_t at = 0; at < n; at += len) {
        int k = script_of(code_at(s + at, n - at, &len));
        if (k < 0) continue;
        seen[k]++;
        all++;
    }
    for (size_t i = 0; i < SCRIPTS; i++) {
        const char *is = scripts[i].word;
        int64_t *sum = strcmp(is, "latin") == 0 ? &latin : strcmp(is, "cyrillic") == 0 ? &cyrillic : strcmp(is, "han") == 0 ? &han : strcmp(is, "ja") == 0 ? &kana : NULL;
        if (sum) *sum += seen[i];
        else if (seen[i] > best) best = seen[i], word = is;
    }
    if (!all) return "";
    if ((double)latin >= SCRIPT_MIN * (double)all) return by_words(s, n, false, sure);
    if ((double)cyrillic >= SCRIPT_MIN * (double)all) return by_words(s, n, true, sure);
    int64_t east = kana + han;
    if (east > best) best = east, word = 10 * kana > east ? "ja" : "zh";
    *sure = (double)best / (double)all;
    return *sure >= SCRIPT_MIN ? word : "";
}

/* --- the rule --- */

static int no_language(struct err *e)
{
    char all[4 * LANGUAGES + 1] = ""; /* each two letters, a comma and a blank */
    for (size_t i = 0; i < LANGUAGES; i++) snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", i ? ", " : "", languages[i].word);
    return err_field(e, ERR_INVALID, "languages", "A language is one of %s.", all);
}

int rule_language_read(const json_t *v, json_t *to, struct err *e)
{
    json_t *list = json_object_get(v, "languages"), *one;
    size_t i;
    if (!list || json_is_null(list)) return err_field(e, ERR_MISSING, "languages", "'languages' is missing.");
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > LANGUAGES) return err_field(e, ERR_INVALID, "languages", "'languages' must be a list of 1 to %zu languages.", LANGUAGES);
    json_array_foreach(list, i, one) if (!json_is_string(one) || !language_known(json_string_value(one))) return no_language(e);
    return json_object_set(to, "languages", list) ? err_set(e, ERR_NO_MEMORY, "no memory for a rule") : 0;
}

void rule_language_apply(const json_t *rule, const struct rule_text *t, struct verdict *v)
{
    double sure;
    const char *is = language_of(t->s, t->n, &sure);
    size_t i;
    json_t *one;
    if (!*is) {
        verdict_skip(v, "the text does not tell its language");
        return;
    }
    json_array_foreach(json_object_get(rule, "languages"), i, one) if (strcmp(json_string_value(one), is) == 0)
    {
        verdict_pass(v, true, "%s", "");
        return;
    }
    verdict_pass(v, false, "the answer is in %s", is);
}
