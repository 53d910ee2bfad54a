/* alias_parts: the table of what aliases may say beyond where they lead. A part is a row here, a column (schema/migrations.def), and a module that reads it
 * and follows it; reading, comparing, rolling back and telling the parts is alias_change.c's, for all of them alike. */
#include "gateway/registry/alias_parts.h"
#include "gateway/capture/capture_policy.h"
#include "gateway/quality/evaluation.h"
#include "gateway/quality/route.h"
#include "gateway/registry/prompt_policy.h"

const struct alias_part_row alias_part_row[ALIAS_PARTS] = {
    [ALIAS_PROMPT] = {"prompt_policy", "UPDATE alias SET prompt_policy = ?2 WHERE row = ?1", prompt_policy_read, "template", 0},
    [ALIAS_EVALUATION] = {"evaluation", "UPDATE alias SET evaluation = ?2 WHERE row = ?1", evaluation_read, "rules", 0},
    [ALIAS_ROUTING] = {"routing", "UPDATE alias SET routing = ?2 WHERE row = ?1", route_rules_read, NULL, 0},
    [ALIAS_CAPTURE] = {CAPTURE_FIELD, "UPDATE alias SET capture = ?2 WHERE row = ?1", capture_policy_read, NULL, SCOPE_KEYS},
};
