"""The memory store in DynamoDB, through boto3."""

from __future__ import annotations

from shipworthy.adapters.dynamodb.memory import DynamoDBMemoryStore

__all__ = ["DynamoDBMemoryStore"]
