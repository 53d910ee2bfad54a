/* GET /admin/v1/top: what is going on at this moment; its row stands with the engines' routes. */
#pragma once
#include "base/http.h"

void top_get(struct http_request *r);
