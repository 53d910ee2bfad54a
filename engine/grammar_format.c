/* grammar_format: the formats of JSON schema, each as a regular set of texts that are valid for it.
 *
 * All formats that draft 2020-12 defines narrow a string here; others (int32, password, ...) are annotations, as the standard has it.
 * Where a format is no regular language, or readers differ about its edges, the set is the part that all agree about: regular expressions
 * have groups in two levels, internationalized names and addresses are written in ASCII, host names have three labels of any length or
 * seven whose others have 30 characters, so that none passes 253. Where a length is asked for as well, each copy of the
 * automaton costs (grammar_regex_net.c): a host name is then counted to 253 over a smaller automaton. */
#include "engine/grammar_schema.h"
#include <string.h>

#define YEAR "(?:\\d{3}[1-9]|\\d{2}[1-9]0|\\d[1-9]00|[1-9]000)"
#define LEAP "(?:\\d\\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define MONTH_DAY                                                                                                      \
    "(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|02-(?:0[1-9]|1\\d|2[0-8]))"
#define DATE "(?:" YEAR "-" MONTH_DAY "|" LEAP "-02-29)"
#define TIME "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,6})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"

/* RFC 3339, appendix A */
#define COUNT "\\d{1,6}"
#define MINUTES COUNT "M(?:" COUNT "S)?"
#define DURATION_TIME "T(?:" COUNT "H(?:" MINUTES ")?|" MINUTES "|" COUNT "S)"
#define MONTHS COUNT "M(?:" COUNT "D)?"
#define DURATION_DATE "(?:" COUNT "Y(?:" MONTHS ")?|" MONTHS "|" COUNT "D)(?:" DURATION_TIME ")?"
#define DURATION "P(?:" DURATION_DATE "|" DURATION_TIME "|" COUNT "W)"

#define OCTET "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define IPV4 OCTET "(?:\\." OCTET "){3}"
#define H16 "[0-9a-fA-F]{1,4}"

/* RFC 1123 */
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define SHORT "[A-Za-z0-9](?:[A-Za-z0-9-]{0,28}[A-Za-z0-9])?"
#define HOST LABEL "(?:(?:\\." LABEL "){0,2}|(?:\\." SHORT "){0,6})"
#define HOST_COUNTED LABEL "(?:\\." LABEL ")*"
#define HOST_MAX 253
/* the same without two hyphens side by side and capitals, for RFC 5891 has its own meaning for those */
#define PLAIN_LABEL "[a-z](?:[a-z0-9]|-[a-z0-9]){0,30}"
#define IDN_HOST PLAIN_LABEL "(?:\\." PLAIN_LABEL "){0,3}"

#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define DOMAIN                                                                                                         \
    "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*" /* LABEL without its bound: counting beside maxLength would be costly */
#define EMAIL ATOM "(?:\\." ATOM ")*@" DOMAIN "(?:\\." DOMAIN ")+"

/* RFC 3986 */
#define URI_CHAR "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
#define URI_NO_COLON "(?:[A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})"
#define URI_TAIL "(?:\\?(?:" URI_CHAR "|[/?])*)?(?:#(?:" URI_CHAR "|[/?])*)?"
#define URI_START "[A-Za-z][A-Za-z0-9+.-]{0,30}://" HOST "(?::\\d{1,5})?(?:/" URI_CHAR "*)*"
#define URI URI_START URI_TAIL
#define URI_REFERENCE                                                                                                  \
    "(?:" URI_START "|/(?:" URI_CHAR "+(?:/" URI_CHAR "*)*)?|" URI_NO_COLON "+(?:/" URI_CHAR "*)*)?" URI_TAIL

/* RFC 6570 */
#define TEMPLATE_NAME "[A-Za-z0-9_]+(?:\\.[A-Za-z0-9_]+)*(?:\\*|:[1-9]\\d{0,3})?"
#define TEMPLATE                                                                                                       \
    "(?:[A-Za-z0-9._~!$&()*+,;=:@/?#-]|%[0-9A-Fa-f]{2}|\\{[+#./;?&]?" TEMPLATE_NAME "(?:," TEMPLATE_NAME ")*\\})*"

/* RFC 6901 */
#define POINTER "(?:/(?:[^/~]|~[01])*)*"

/* ECMA-262 and its likes: what all of them read the same way */
#define RX_CLASS "\\[\\^?(?:[A-Za-z0-9_ ]|a-z|A-Z|0-9|\\\\[dws])+\\]"
#define RX_ATOM "(?:[A-Za-z0-9_ ,:;=@!\"#%&'<>`~/-]|\\.|\\\\[dwsDWS.^$*+?()\\[\\]{}|\\\\]|" RX_CLASS ")"
#define RX_TIMES "(?:[*+?]|\\{[1-9]\\d?\\})?"
#define RX_INNER "(?:" RX_ATOM RX_TIMES ")+"
#define RX_GROUP "\\((?:\\?:)?" RX_INNER "(?:\\|" RX_INNER ")*\\)"
#define RX_OUTER "(?:(?:" RX_ATOM "|" RX_GROUP ")" RX_TIMES ")+"
#define REGEX "\\^?" RX_OUTER "(?:\\|" RX_OUTER ")*\\$?"

/* A relative JSON pointer's number has a zero in last place only: some readers take one before another digit for a leading one. */
static const struct format formats[] = {
    {"date", DATE, NULL, 0},
    {"time", TIME, NULL, 0},
    {"date-time", DATE "T" TIME, NULL, 0},
    {"duration", DURATION, NULL, 0},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", NULL, 0},
    {"email", EMAIL, NULL, 0},
    {"idn-email", EMAIL, NULL, 0},
    {"hostname", HOST, HOST_COUNTED, HOST_MAX},
    {"idn-hostname", IDN_HOST, NULL, 0},
    {"ipv4", IPV4, NULL, 0},
    {"ipv6",
     "(?:(?:" H16 ":){7}" H16 "|(?:" H16 ":){1,7}:|(?:" H16 ":){1,6}:" H16 "|(?:" H16 ":){1,5}(?::" H16 "){1,2}|(?:" H16
     ":){1,4}(?::" H16 "){1,3}|(?:" H16 ":){1,3}(?::" H16 "){1,4}|(?:" H16 ":){1,2}(?::" H16 "){1,5}|" H16 ":(?::" H16
     "){1,6}|:(?::" H16 "){1,7}|::)",
     NULL, 0},
    {"uri", URI, NULL, 0},
    {"iri", URI, NULL, 0},
    {"uri-reference", URI_REFERENCE, NULL, 0},
    {"iri-reference", URI_REFERENCE, NULL, 0},
    {"uri-template", TEMPLATE, NULL, 0},
    {"json-pointer", POINTER, NULL, 0},
    {"relative-json-pointer", "[1-9]{0,4}\\d(?:#|" POINTER ")", NULL, 0},
    {"regex", REGEX, NULL, 0},
};

const struct format *schema_format(const char *name)
{
    for (size_t i = 0; name && i < sizeof formats / sizeof *formats; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}
