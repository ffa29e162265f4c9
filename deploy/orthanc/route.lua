-- Auto-routing: every hand-film candidate that arrives at the PACS from a modality goes to Carpus once.
-- What Carpus itself sends back carries its manufacturer and is not routed again.
function OnStoredInstance(instanceId, tags, metadata, origin)
   if origin['RequestOrigin'] == 'Lua' then
      return
   end
   local modality = tags['Modality']
   if (modality == 'CR' or modality == 'DX') and tags['Manufacturer'] ~= 'Carpus' then
      SendToModality(instanceId, 'carpus')
   end
end
