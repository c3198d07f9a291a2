#ifndef QUIPU_CLIENT_STORE_FILE_IMPL_H
#define QUIPU_CLIENT_STORE_FILE_IMPL_H

#include "client/store_file.h"

#define STORE_FILE_MAGIC 0x63657251u /* "Qrec" */
#define STORE_FILE_MARK 5

uint64_t store_file_checksum(uint64_t offset, const uint8_t *head,
			     const uint8_t *payload, size_t n);

#endif
